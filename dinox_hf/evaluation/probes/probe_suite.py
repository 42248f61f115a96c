"""The linear probes of one evaluation: every question, pooling and control, on the same folds and resamples."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from ..backbones.features import POOLINGS, cached
from ..cohorts.labels import ATTRIBUTE_RULES, MALIGNANCY_RULES, LabelRule
from ..cohorts.splits import patient_resamples
from .controls import NUM_COMPONENTS, pixel_components, with_size
from .linear_probe import ProbeScore, interval, out_of_fold_scores, repeated_folds, score_probe

_CACHE_FORMAT = 1  # raise it when the same key would give other scores
MATCHED_MM = (6.0, 14.0)  # the stratum in which size alone tells less
MIN_NODULES, MIN_PATIENTS = 10, 5  # of each class
NO_POOLING = "–"  # of features that are no tokens
BACKBONE, RANDOM, BOTH_SIZE = "backbone", "random weights", "backbone + size"
START = "starting weights"
SIZE, PIXELS, SHUFFLED = "size only", f"raw pixels, PCA-{NUM_COMPONENTS}", "backbone, shuffled labels"


@dataclass(frozen=True)
class ProbeInputs:
    """What is known of each of n nodules, in one order."""

    patient_ids: np.ndarray  # (n,)
    diameter_mm: np.ndarray  # (n,)
    ratings: dict[str, list[list[int]]]  # by characteristic, then nodule
    trained: dict[str, np.ndarray]  # by pooling, (n, D)
    random: list[dict[str, np.ndarray]]  # the same of every random twin
    pixels: np.ndarray  # (n, P) the same fields, raw
    start: dict[str, np.ndarray] | None = None  # as trained, with the weights that the run started from
    key: dict[str, Any] = field(default_factory=dict)  # names images and networks in the cache


@dataclass(frozen=True)
class Question:
    """One probe: a label rule, perhaps within a range of sizes."""

    name: str
    rule: LabelRule
    diameter_range_mm: tuple[float, float] | None = None

    def labels(self, inputs: ProbeInputs) -> np.ndarray:
        """(n,) float 0 or 1, NaN for a nodule that is left out."""
        values = [self.rule.label(ratings) for ratings in inputs.ratings[self.rule.characteristic]]
        labels = np.array([np.nan if value is None else value for value in values], dtype=float)
        if self.diameter_range_mm is not None:
            low, high = self.diameter_range_mm
            labels[(inputs.diameter_mm < low) | (inputs.diameter_mm > high)] = np.nan
        return labels


@dataclass
class Answer:
    """The scores of one question, by features and pooling; or the reason why there are none."""

    question: Question
    num_nodules: int
    num_positive: int
    num_patients: int
    not_measured: str | None = None
    scores: dict[tuple[str, str], ProbeScore] = field(default_factory=dict)

    def gain(self, of: tuple[str, str], over: tuple[str, str]) -> dict[str, Any]:
        """Difference of two AUCs on the same nodules, with the interval of the paired bootstrap."""
        difference = self.scores[of].resampled - self.scores[over].resampled
        return {"gain": self.scores[of].auc - self.scores[over].auc, **_spread(difference)}


def questions() -> list[Question]:
    """All questions in the order of the report: malignancy by rule A, among equals in size, B, C, then attributes."""
    matched = Question(
        f"{MALIGNANCY_RULES[0].name}, {MATCHED_MM[0]:g}–{MATCHED_MM[1]:g} mm", MALIGNANCY_RULES[0], MATCHED_MM
    )
    first, *others = [Question(rule.name, rule) for rule in MALIGNANCY_RULES]
    return [first, matched, *others, *(Question(rule.name, rule) for rule in ATTRIBUTE_RULES)]


def answer_all(
    inputs: ProbeInputs, num_seeds: int, num_threads: int, cache: Path, now: Callable[[str], None] = lambda _: None
) -> list[Answer]:
    """Answer every question; one that the data cannot answer says why.

    Args:
        inputs: the nodules.
        num_seeds: repetitions of the folds.
        num_threads: questions at once; no effect on any number.
        cache: folder of the scores; out-of-fold scores of equal inputs are computed once.
        now: told the question that is about to be answered.
    """
    resamples = patient_resamples(inputs.patient_ids)

    def one(question: Question) -> Answer:
        now(f"probe {question.name}")
        return _answer(question, inputs, num_seeds, resamples, cache)

    # Threads inside the small matrix products cost more than they bring; threads over questions do not.
    with threadpool_limits(1), ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(one, questions()))


def mean_gain(answers: list[Answer], pooling: str = "cls", over: str = RANDOM) -> dict[str, Any] | None:
    """Mean over the measured attributes of AUC minus AUC of random or starting weights, resampled together by patient.

    Returns:
        gain, interval, whether every resample gave 0, and the names of the attributes; None if none was measured.
    """
    names = {rule.name for rule in ATTRIBUTE_RULES}
    measured = [answer for answer in answers if answer.question.name in names and answer.not_measured is None]
    if not measured:
        return None
    pairs = [(answer.scores[BACKBONE, pooling], answer.scores[over, pooling]) for answer in measured]
    resampled = np.mean([trained.resampled - other.resampled for trained, other in pairs], axis=0)
    return {
        "pooling": pooling,
        "gain": float(np.mean([trained.auc - other.auc for trained, other in pairs])),
        **_spread(resampled),
        "attributes": [answer.question.name for answer in measured],
    }


def _spread(difference: np.ndarray) -> dict[str, Any]:
    """Interval of a resampled difference of AUCs, and whether it is 0 in every resample."""
    return {"interval": interval(difference), "always_zero": not np.nan_to_num(difference).any()}


def probe_record(answer: Answer) -> dict[str, Any]:
    """An answer as plain numbers and words, for the report."""
    record = {
        "question": answer.question.name,
        "rule": answer.question.rule.text,
        "num_nodules": answer.num_nodules,
        "num_positive": answer.num_positive,
        "num_patients": answer.num_patients,
        "not_measured": answer.not_measured,
        "scores": [
            {
                "features": features,
                "pooling": pooling,
                "auc": score.auc,
                "interval": [score.low, score.high],
                "auc_by_seed": list(score.auc_by_seed),
            }
            for (features, pooling), score in answer.scores.items()
        ],
        "gains": [],
    }
    if answer.not_measured is None:
        for pooling in POOLINGS:
            pairs = [(BACKBONE, RANDOM, pooling), (BOTH_SIZE, SIZE, NO_POOLING)]
            if (START, pooling) in answer.scores:
                pairs.append((BACKBONE, START, pooling))
            for of, over, over_pooling in pairs:
                gain = answer.gain((of, pooling), (over, over_pooling))
                record["gains"].append({"of": of, "over": over, "pooling": pooling, **gain})
    return record


def _answer(question: Question, inputs: ProbeInputs, num_seeds: int, resamples: np.ndarray, cache: Path) -> Answer:
    labels = question.labels(inputs)
    rows = np.flatnonzero(~np.isnan(labels))
    labels, patient_ids = labels[rows].astype(int), inputs.patient_ids[rows]
    answer = Answer(question, len(rows), int(labels.sum()), len(np.unique(patient_ids)))
    answer.not_measured = too_few(labels, patient_ids)
    if answer.not_measured is None:
        key = {"format": _CACHE_FORMAT, "question": asdict(question), "seeds": num_seeds, "labels": labels.tolist()}
        folds = repeated_folds(labels, patient_ids, num_seeds)
        found = cached(
            cache,
            key | {"rows": rows.tolist()} | inputs.key,
            lambda: {"|".join(name): scores for name, scores in _all_scores(inputs, rows, labels, folds)},
        )
        for joined, scores in found.items():
            name = tuple(joined.split("|"))
            is_shuffled = name[0] == SHUFFLED
            score = _score_shuffled if is_shuffled else score_probe
            answer.scores[name] = score(labels, scores, resamples[:, rows])
    return answer


def too_few(labels: np.ndarray, patient_ids: np.ndarray) -> str | None:
    """Why these labels cannot be probed, or None."""
    for value in (1, 0):
        nodules = int((labels == value).sum())
        patients = len(np.unique(patient_ids[labels == value]))
        if reason := fewer_than_needed(nodules, patients):
            return f"label {value} has {reason}"
    return None


def fewer_than_needed(nodules: int, patients: int) -> str | None:
    """Found and needed counts where so few carry no interval, or None."""
    if nodules >= MIN_NODULES and patients >= MIN_PATIENTS:
        return None
    needed = f"at least {MIN_NODULES} nodules of {MIN_PATIENTS} patients are needed"
    return f"{nodules} nodules of {patients} patients; {needed}"


def _all_scores(
    inputs: ProbeInputs, rows: np.ndarray, labels: np.ndarray, folds: np.ndarray
) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Yield (features, pooling) and out-of-fold scores (n, num_seeds) of everything that is asked."""
    diameter_mm = inputs.diameter_mm[rows]
    for pooling in POOLINGS:
        trained = inputs.trained[pooling][rows]
        yield (BACKBONE, pooling), out_of_fold_scores(trained, labels, folds)
        yield (BOTH_SIZE, pooling), out_of_fold_scores(with_size(trained, diameter_mm), labels, folds)
        if inputs.start is not None:
            yield (START, pooling), out_of_fold_scores(inputs.start[pooling][rows], labels, folds)
        # Seed by seed another random twin: the spread over seeds holds that of the weights too.
        scores = np.empty(folds.shape)
        for first, twin in enumerate(inputs.random[: folds.shape[1]]):
            columns = slice(first, None, len(inputs.random))
            scores[:, columns] = out_of_fold_scores(twin[pooling][rows], labels, folds[:, columns])
        yield (RANDOM, pooling), scores
    yield (SIZE, NO_POOLING), out_of_fold_scores(diameter_mm[:, None], labels, folds)
    yield (PIXELS, NO_POOLING), out_of_fold_scores(pixel_components(inputs.pixels[rows]), labels, folds)
    columns = [
        out_of_fold_scores(inputs.trained["cls"][rows], truth, folds[:, seed : seed + 1])
        for seed, truth in enumerate(_shuffles(labels, folds.shape[1]))
    ]
    yield (SHUFFLED, "cls"), np.concatenate(columns, axis=1)


def _shuffles(labels: np.ndarray, num: int) -> list[np.ndarray]:
    """Labels that mean nothing, again and again."""
    return [np.random.default_rng(seed).permutation(labels) for seed in range(num)]


def _score_shuffled(labels: np.ndarray, scores: np.ndarray, resamples: np.ndarray) -> ProbeScore:
    """The whole procedure on labels that mean nothing, another shuffle a seed; anything but one half is a fault."""
    pairs = zip(_shuffles(labels, scores.shape[1]), scores.T, strict=True)
    by_seed = [score_probe(truth, column[:, None], resamples) for truth, column in pairs]
    resampled = np.mean([score.resampled for score in by_seed], axis=0)
    aucs = tuple(score.auc for score in by_seed)
    return ProbeScore(float(np.mean(aucs)), *interval(resampled), aucs, resampled)
