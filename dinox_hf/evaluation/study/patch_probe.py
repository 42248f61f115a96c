"""Cross-fitted probes on nodule patches: each half of the patients is asked of networks that learned from the other.

A probe is fitted inside one half, by folds of patients, on features of networks that never saw that half. The two
halves are averaged, and so are the networks of several seeds; the interval resamples patients.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..backbones.features import cached
from ..cohorts.labels import ATTRIBUTE_RULES, MALIGNANCY_RULES
from ..cohorts.splits import patient_resamples
from ..probes.controls import NUM_COMPONENTS, pixel_components, with_size
from ..probes.linear_probe import ProbeScore, interval, out_of_fold_scores, repeated_folds, score_probe
from ..probes.probe_suite import MATCHED_MM, NO_POOLING, Question, too_few

_CACHE_FORMAT = 1  # raise it when the same key would give other scores
POOLINGS = ("cls", "mean", "max")
PLAIN, GRAM, RANDOM = "trained", "trained with Gram", "random weights"
PIXELS, SIZE = f"raw pixels, PCA-{NUM_COMPONENTS}", "size only"
WITH_SIZE, SHUFFLED = " + size", "trained, shuffled labels"
_ATTRIBUTES = ("texture", "calcification", "margin")
Name = tuple[str, str]  # features and pooling


@dataclass(frozen=True, kw_only=True)
class PatchProbeSettings:
    """How a patch is shown to a network, and how often a probe is repeated."""

    field_mm: float = 32.0  # side of the square around a nodule
    size_px: int = 48  # its side in pixels
    num_random: int = 5  # draws of random weights
    num_fold_seeds: int = 3  # repetitions of the folds
    num_resamples: int = 2000  # of the bootstrap by patient


@dataclass(frozen=True)
class Half:
    """The nodules of one half of the patients, through networks that have never seen these patients."""

    name: str
    patient_ids: np.ndarray  # (n,)
    diameter_mm: np.ndarray  # (n,)
    ratings: dict[str, list[list[int]]]  # by characteristic, then nodule
    networks: dict[str, list[dict[str, np.ndarray]]]  # PLAIN, GRAM, RANDOM: of every network, by pooling, (n, D)
    pixels: np.ndarray  # (n, P) the same fields, raw
    key: dict[str, Any]  # names images and networks in the cache


@dataclass(frozen=True)
class Answer:
    """One question, averaged over the halves; or the reason why it could not be measured."""

    question: Question
    counts: dict[str, dict[str, int]]  # by half: nodules, of them positive, and patients
    not_measured: str | None
    scores: dict[Name, ProbeScore]  # auc_by_seed holds one value a network
    by_half: dict[str, dict[Name, ProbeScore]]  # before averaging


def questions() -> list[Question]:
    """Malignancy by rule A, texture, calcification and margin; then the same within 6–14 mm."""
    rules = [MALIGNANCY_RULES[0], *(rule for rule in ATTRIBUTE_RULES if rule.name in _ATTRIBUTES)]
    all_sizes = [Question(rule.name, rule) for rule in rules]
    return all_sizes + [Question(f"{rule.name}, {_matched()}", rule, MATCHED_MM) for rule in rules]


def groups() -> dict[str, list[str]]:
    """Questions that are averaged, by the name of the average."""
    names = [question.name for question in questions()]
    four, matched = names[:4], names[4:]
    return {
        "mean of four": four,
        f"mean of four, {_matched()}": matched,
        f"mean of four and malignancy, {_matched()}": [*four, matched[0]],
    }


def answer_all(
    halves: list[Half],
    settings: PatchProbeSettings,
    cache: Path,
    num_threads: int,
    done: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Answer every question in every half, from the cache where it lies there, and average over the halves.

    Args:
        halves: two of them.
        settings: see `PatchProbeSettings`.
        cache: folder of the scores; out-of-fold scores of equal inputs are computed once.
        num_threads: questions at once; no effect on any number.
        done: called after each question and half.
    """
    resamples = {half.name: patient_resamples(half.patient_ids, settings.num_resamples) for half in halves}

    def one(task: tuple[Question, Half]) -> tuple[dict[str, int], str | None, dict[Name, ProbeScore]]:
        question, half = task
        found = _answer_in_half(question, half, settings, cache, resamples[half.name])
        done()
        return found

    asked = questions()
    tasks = [(question, half) for question in asked for half in halves]
    with threadpool_limits(1), ThreadPoolExecutor(num_threads) as pool:
        found = list(pool.map(one, tasks))
    answers = []
    for number, question in enumerate(asked):
        parts = found[number * len(halves) : (number + 1) * len(halves)]
        counts = {half.name: part[0] for half, part in zip(halves, parts, strict=True)}
        reasons = [f"{half.name}: {part[1]}" for half, part in zip(halves, parts, strict=True) if part[1]]
        names = [] if reasons else parts[0][2]
        scores = {name: mean_score([part[2][name] for part in parts]) for name in names}
        by_half = {half.name: part[2] for half, part in zip(halves, parts, strict=True)}
        answers.append(Answer(question, counts, "; ".join(reasons) or None, scores, by_half))
    return answers


def mean_score(scores: list[ProbeScore]) -> ProbeScore:
    """The mean of several AUCs, network by network, resample by resample."""
    resampled = np.mean([score.resampled for score in scores], axis=0)
    by_network = tuple(float(value) for value in np.mean([score.auc_by_seed for score in scores], axis=0))
    return ProbeScore(float(np.mean([score.auc for score in scores])), *interval(resampled), by_network, resampled)


def group_scores(answers: list[Answer], half: str | None = None) -> dict[str, dict[Name, ProbeScore]]:
    """The averages of `groups`, over both halves or in one; without those whose questions were not all measured."""
    by_question = {
        answer.question.name: answer.by_half[half] if half else answer.scores
        for answer in answers
        if answer.not_measured is None
    }
    return {
        group: {
            name: mean_score([by_question[question][name] for question in names]) for name in by_question[names[0]]
        }
        for group, names in groups().items()
        if all(question in by_question for question in names)
    }


def gain(of: ProbeScore, over: ProbeScore) -> dict[str, Any]:
    """Difference of two AUCs on the same nodules, with the interval of the paired bootstrap."""
    return {"gain": of.auc - over.auc, "interval": list(interval(of.resampled - over.resampled))}


def _answer_in_half(
    question: Question, half: Half, settings: PatchProbeSettings, cache: Path, resamples: np.ndarray
) -> tuple[dict[str, int], str | None, dict[Name, ProbeScore]]:
    labels = question.labels(half)
    rows = np.flatnonzero(~np.isnan(labels))
    labels, patient_ids = labels[rows].astype(int), half.patient_ids[rows]
    counts = {"nodules": len(rows), "positive": int(labels.sum()), "patients": len(np.unique(patient_ids))}
    if reason := too_few(labels, patient_ids):
        return counts, reason, {}
    asked = {"question": asdict(question), "fold_seeds": settings.num_fold_seeds, "labels": labels.tolist()}
    folds = repeated_folds(labels, patient_ids, settings.num_fold_seeds)
    arrays = cached(
        cache,
        {"format": _CACHE_FORMAT} | half.key | asked,
        lambda: {"|".join(name): scores for name, scores in _out_of_fold(half, rows, labels, folds)},
    )
    scores = {}
    for joined, columns in arrays.items():
        name = tuple(joined.split("|"))
        if name[0] == SHUFFLED:
            pairs = zip(_shuffles(labels, columns.shape[1]), columns.T, strict=True)
            scores[name] = mean_score(
                [score_probe(truth, column[:, None], resamples[:, rows]) for truth, column in pairs]
            )
        else:
            score = score_probe(labels, columns, resamples[:, rows])
            by_network = np.reshape(score.auc_by_seed, (-1, settings.num_fold_seeds)).mean(axis=1)
            scores[name] = replace(score, auc_by_seed=tuple(by_network))
    return counts, None, scores


def _out_of_fold(
    half: Half, rows: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> Iterator[tuple[Name, np.ndarray]]:
    """Yield the scores of all features, (n, networks x fold seeds), fold seeds running fastest."""
    diameter_mm = half.diameter_mm[rows]
    for name, networks in half.networks.items():
        for pooling in POOLINGS:
            columns = [out_of_fold_scores(network[pooling][rows], labels, folds) for network in networks]
            yield (name, pooling), np.concatenate(columns, axis=1)
    for name in (PLAIN, GRAM):
        both = [with_size(network["cls"][rows], diameter_mm) for network in half.networks[name]]
        columns = [out_of_fold_scores(features, labels, folds) for features in both]
        yield (name + WITH_SIZE, "cls"), np.concatenate(columns, axis=1)
    yield (SIZE, NO_POOLING), out_of_fold_scores(diameter_mm[:, None], labels, folds)
    yield (PIXELS, NO_POOLING), out_of_fold_scores(pixel_components(half.pixels[rows]), labels, folds)
    networks = half.networks[PLAIN]
    columns = [
        out_of_fold_scores(
            networks[number % len(networks)]["cls"][rows], truth, folds[:, number // len(networks), None]
        )
        for number, truth in enumerate(_shuffles(labels, len(networks) * folds.shape[1]))
    ]
    yield (SHUFFLED, "cls"), np.concatenate(columns, axis=1)


def _shuffles(labels: np.ndarray, num: int) -> list[np.ndarray]:
    """Labels that mean nothing, again and again: any score but about one half is a fault of the procedure."""
    return [np.random.default_rng(seed).permutation(labels) for seed in range(num)]


def _matched() -> str:
    return f"{MATCHED_MM[0]:g}–{MATCHED_MM[1]:g} mm"
