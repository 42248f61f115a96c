"""Label efficiency: how well a probe does with few labels, against a network that is trained on labels alone."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ...data.workers import worker_map
from ...metrics.stratified_auroc import pair_wins, resampled_area
from ..backbones.features import cached
from ..cohorts.splits import patient_folds, patient_resamples
from .few_labels import NUM_DRAWS, SHARES, LabelDraw, deal_labels, fit_draws
from .from_scratch import FromScratchSettings, train_from_scratch
from .linear_probe import interval
from .probe_suite import NO_POOLING

FROM_SCRATCH = "supervised, from scratch"
CLAIMED_SHARE = 0.05  # 95 % fewer labels
MIN_PATIENTS = 50  # of fewer, 1, 5 and 10 % are nearly the same patients
_CACHE_FORMAT = 1  # raise it when the same key would give other scores
Name = tuple[str, str]  # features and pooling


@dataclass(frozen=True)
class LabelledCrops:
    """Nodules with a label, and what the supervised network sees of them."""

    labels: np.ndarray  # (n,) 0 or 1
    patient_ids: np.ndarray  # (n,)
    fields_hu: np.ndarray  # (n, size, size) HU
    key: dict[str, Any]  # names images and labels in the cache


def label_efficiency(
    crops: LabelledCrops,
    features: dict[Name, Sequence[np.ndarray]],
    cache: Path,
    workers: int,
    num_draws: int = NUM_DRAWS,
    settings: FromScratchSettings | None = None,
    now: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Probe features and train the baseline on every share of the training patients, and compare.

    The test folds are fixed: five, grouped by patient. Every share, draw and fold has its own fit, on the same
    patients for all features. An AUC compares nodules within a fold only; the band is the spread over draws, the
    interval resamples patients.

    Args:
        crops: n nodules.
        features: by name and pooling, one or more (n, D); draws take them in turn, as those of random networks.
        cache: folder of the baseline's scores, so that a killed evaluation goes on where it was.
        workers: processes that train baselines, and threads that fit probes; no effect on any number.
        num_draws: of every share.
        settings: of the baseline.
        now: told what is being done.

    Returns:
        Plain numbers: counts, a curve for each features, and where it reaches the baseline with all labels.

    Raises:
        ValueError: if patients or classes are too few for the folds, or a feature is not finite.
    """
    labels, patient_ids = crops.labels, crops.patient_ids
    settings = settings or FromScratchSettings()
    folds = patient_folds(labels, patient_ids)
    draws = deal_labels(labels, patient_ids, folds, num_draws=num_draws)
    resamples = patient_resamples(patient_ids)

    def one(name: Name) -> np.ndarray:
        return _probe_scores(features[name], labels, patient_ids, folds, draws, num_draws)

    now("label efficiency: probes")
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        scores = dict(zip(features, pool.map(one, features), strict=True))
    scores[FROM_SCRATCH, NO_POOLING] = _baseline_scores(crops, folds, draws, num_draws, settings, cache, workers, now)
    points = {
        name: [_point(labels, folds, by_share, resamples) for by_share in np.moveaxis(curve, 1, 0)]
        for name, curve in scores.items()
    }
    return {
        "num_nodules": len(labels),
        "num_positive": int(labels.sum()),
        "num_patients": len(np.unique(patient_ids)),
        "num_draws": num_draws,
        "num_folds": len(np.unique(folds)),
        "baseline": asdict(settings) | {"widths": list(settings.widths)},
        "shares": [_share_counts(share, draws) for share in SHARES],
        "curves": [
            {"features": name[0], "pooling": name[1], "points": [_plain(point) for point in curve]}
            for name, curve in points.items()
        ],
        "reached": [
            {"features": name[0], "pooling": name[1]} | _reached(curve, points[FROM_SCRATCH, NO_POOLING][-1])
            for name, curve in points.items()
            if name[0] != FROM_SCRATCH
        ],
    }


def _probe_scores(networks, labels, patient_ids, folds, draws, num_draws) -> np.ndarray:
    """(n, shares, draws) out-of-fold scores; draw i takes the features of network i modulo their number."""
    scores = np.empty((len(labels), len(SHARES), num_draws))
    for index, features in enumerate(networks):
        own = [draw for draw in draws if draw.number % len(networks) == index]
        if own:
            fitted = fit_draws(features, labels, patient_ids, folds, own)
            for column, draw in enumerate(own):
                rows = folds == draw.fold
                scores[rows, SHARES.index(draw.share), draw.number] = fitted[rows, column]
    return scores


def _baseline_scores(crops, folds, draws, num_draws, settings, cache, workers, now) -> np.ndarray:
    """(n, shares, draws) out-of-fold scores of networks trained from scratch."""
    key = {"format": _CACHE_FORMAT, "baseline": asdict(settings), "labels": crops.labels.tolist()} | crops.key
    tasks = [
        (crops, folds, [draw for draw in draws if (draw.share, draw.number) == (share, number)], settings, cache, key)
        for number in range(num_draws)
        for share in SHARES
    ]
    scores = np.empty((len(crops.labels), len(SHARES), num_draws))
    with worker_map(workers) as run:
        for done, (task, found) in enumerate(zip(tasks, run(_train_one, tasks), strict=True), start=1):
            draw = task[2][0]
            scores[:, SHARES.index(draw.share), draw.number] = found
            now(f"label efficiency: {done} of {len(tasks)} baselines")
    return scores


def _train_one(task) -> np.ndarray:
    """(n,) out-of-fold scores of one share and draw, from the cache if they lie there."""
    crops, folds, draws, settings, cache, key = task

    def train() -> dict[str, np.ndarray]:
        scores = np.empty(len(folds))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so small a network gains nothing from more, and there are other processes
        try:
            for draw in draws:
                asked = np.flatnonzero(folds == draw.fold)
                seed = [draw.number, draw.fold]
                found = train_from_scratch(crops.fields_hu, crops.labels, draw.rows, asked, seed, settings)
                scores[asked] = found
        finally:
            torch.set_num_threads(threads)
        return {"scores": scores}

    rows = {"draws": [[draw.share, draw.number, draw.fold, draw.rows.tolist()] for draw in draws]}
    return cached(cache, key | rows, train)["scores"]


def _point(labels: np.ndarray, folds: np.ndarray, scores: np.ndarray, resamples: np.ndarray) -> dict[str, Any]:
    """One share of a curve: the AUC within folds, its spread over draws, and its interval by patient."""
    once = np.ones((1, len(labels)))
    by_draw = [float(resampled_area(*pair_wins(labels, own, folds), labels, once)[0]) for own in _columns(scores)]
    resampled = resampled_area(*pair_wins(labels, scores, folds), labels, resamples)
    return {
        "auc": float(np.mean(by_draw)),
        "sd": float(np.std(by_draw)),
        "interval": list(interval(resampled)),
        "auc_by_draw": by_draw,
        "resampled": resampled,
    }


def _columns(scores: np.ndarray) -> list[np.ndarray]:
    return [scores[:, index : index + 1] for index in range(scores.shape[1])]


def _plain(point: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in point.items() if name != "resampled"}


def _share_counts(share: float, draws: Sequence[LabelDraw]) -> dict[str, float]:
    own = [draw for draw in draws if draw.share == share]
    return {
        "share": share,
        "patients": float(np.mean([draw.num_patients for draw in own])),
        "nodules": float(np.mean([len(draw.rows) for draw in own])),
    }


def _reached(curve: list[dict[str, Any]], baseline: dict[str, Any]) -> dict[str, Any]:
    """The smallest share whose mean AUC is at least the baseline's with all labels; share None where none is."""
    gains = [
        {
            "share": share,
            "gain": point["auc"] - baseline["auc"],
            "interval": list(interval(point["resampled"] - baseline["resampled"])),
        }
        for share, point in zip(SHARES, curve, strict=True)
    ]
    first = next((gain["share"] for gain in gains if gain["gain"] >= 0), None)
    certain = next((gain["share"] for gain in gains if gain["interval"][0] > 0), None)
    return {"share": first, "share_beyond_interval": certain, "gains": gains}
