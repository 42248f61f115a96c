"""Neighbours in an evaluation: the k-nearest-neighbour score and retrieval across patients, beside their controls."""

from typing import Any

import numpy as np

from ...metrics.retrieval import precision_at_k
from ..cohorts.splits import patient_resamples
from ..pages.tables import interval_text, table
from ..probes.knn import NUM_NEIGHBOURS, TEMPERATURE, cosine_similarity, knn_scores, size_similarity, smallest_gallery
from ..probes.linear_probe import interval, repeated_folds, score_probe
from ..probes.probe_suite import BACKBONE, NO_POOLING, RANDOM, SIZE, START, Question, questions, too_few
from .bench import Bench
from .part import Part, Report

KS = (1, 5, 10)
PIXELS = "raw pixels"  # all of them: no component is fitted here
_POOLINGS = ("cls", "mean", "max")
_NUM_MALIGNANCY = 2  # questions about malignancy come first: rule A, and the same among equals in size
_ATTRIBUTES = ("texture", "calcification")
Similarities = dict[tuple[str, str], list[np.ndarray]]  # by features and pooling, of one network or several, (n, n)


def _measure(bench: Bench, report: Report) -> Report:
    asked = questions()
    asked = asked[:_NUM_MALIGNANCY] + [question for question in asked if question.name in _ATTRIBUTES]
    return {
        "neighbours": {
            "num_neighbours": NUM_NEIGHBOURS,
            "temperature": TEMPERATURE,
            "ks": list(KS),
            "questions": [_answer(bench, question) for question in asked],
        }
    }


def _answer(bench: Bench, question: Question) -> dict[str, Any]:
    nodules = bench.material.nodules
    all_labels = question.labels(nodules)
    rows = np.flatnonzero(~np.isnan(all_labels))
    labels, patient_ids = all_labels[rows].astype(int), nodules.patient_ids[rows]
    record = {
        "question": question.name,
        "rule": question.rule.text,
        "num_nodules": len(rows),
        "num_positive": int(labels.sum()),
        "num_patients": len(np.unique(patient_ids)),
        "not_measured": too_few(labels, patient_ids),
    }
    if record["not_measured"]:
        return record
    folds = repeated_folds(labels, patient_ids, bench.settings.num_seeds)
    if smallest_gallery(folds) < NUM_NEIGHBOURS:
        found = f"{smallest_gallery(folds)} nodules outside a fold"
        return record | {"not_measured": f"{found}; at least {NUM_NEIGHBOURS} are needed for as many neighbours"}
    resamples = patient_resamples(patient_ids)
    is_same_class = labels[:, None] == labels[None]
    is_other_patient = patient_ids[:, None] != patient_ids[None]
    chance = (is_same_class & is_other_patient).sum(axis=1) / is_other_patient.sum(axis=1)
    record["chance"] = {"all": float(chance.mean()), "positive": float(chance[labels == 1].mean())}
    record["scores"] = []
    for (features, pooling), networks in _similarities(bench, rows).items():
        knn = np.empty(folds.shape)
        for first, similarity in enumerate(networks[: folds.shape[1]]):
            columns = slice(first, None, len(networks))
            knn[:, columns] = knn_scores(similarity, labels, folds[:, columns])
        score = score_probe(labels, knn, resamples)
        precision = np.mean([precision_at_k(each, is_same_class, is_other_patient, KS) for each in networks], axis=0)
        record["scores"].append(
            {
                "features": features,
                "pooling": pooling,
                "auc": score.auc,
                "interval": [score.low, score.high],
                "precision": [
                    {"k": k, **_precision(precision[:, column], labels, resamples)} for column, k in enumerate(KS)
                ],
            }
        )
    return record


def _similarities(bench: Bench, rows: np.ndarray) -> Similarities:
    material = bench.material
    networks = {BACKBONE: [bench.subject.backbone], RANDOM: bench.subject.twins}
    if bench.start is not None:
        networks[START] = [bench.start]
    similarities: Similarities = {
        (name, pooling): [cosine_similarity(bench.features(network)[pooling][rows]) for network in found]
        for name, found in networks.items()
        for pooling in _POOLINGS
    }
    similarities[PIXELS, NO_POOLING] = [cosine_similarity(material.pixels[rows])]
    similarities[SIZE, NO_POOLING] = [size_similarity(material.nodules.diameter_mm[rows])]
    return similarities


def _precision(precision: np.ndarray, labels: np.ndarray, resamples: np.ndarray) -> dict[str, Any]:
    """Mean over all queries with its interval by the patient of the query, and over positive queries alone."""
    resampled = (resamples @ precision) / resamples.sum(axis=1)
    positive = labels == 1
    return {
        "all": float(precision.mean()),
        "interval": list(interval(resampled)),
        "positive": float(precision[positive].mean()),
    }


def _verdict(report: Report) -> list[str]:
    first = report["neighbours"]["questions"][0]
    if first["not_measured"]:
        return [f"Neighbours: not measured – {first['not_measured']}."]
    scores = {(score["features"], score["pooling"]): score for score in first["scores"]}
    shown = [(BACKBONE, "cls"), (RANDOM, "cls"), (PIXELS, NO_POOLING), (SIZE, NO_POOLING)]
    knn = ", ".join(f"{name} {scores[name, pooling]['auc']:.3f}" for name, pooling in shown)
    precision = ", ".join(f"{name} {scores[name, pooling]['precision'][1]['all']:.3f}" for name, pooling in shown)
    return [
        f"Neighbours, {first['question']} (CLS): kNN AUC {knn}; of the {KS[1]} most alike nodules of other patients "
        f"share the class: {precision}, chance {first['chance']['all']:.3f}."
    ]


def _section(report: Report) -> str:
    record = report["neighbours"]
    parts = ["## Are alike nodules neighbours?"]
    for question in record["questions"]:
        if question["not_measured"]:
            parts.append(f"- not measured: {question['question']} – {question['not_measured']}.")
            continue
        header = ["features", "pooling", "kNN AUC", "95 % interval", *(f"precision@{k}" for k in record["ks"])]
        header += ["95 % interval of the last", f"precision@{record['ks'][-1]}, positive queries"]
        rows = [
            [
                score["features"],
                score["pooling"],
                f"{score['auc']:.3f}",
                interval_text(score["interval"]),
                *(f"{each['all']:.3f}" for each in score["precision"]),
                interval_text(score["precision"][-1]["interval"]),
                f"{score['precision'][-1]['positive']:.3f}",
            ]
            for score in question["scores"]
        ]
        chance = f"{question['chance']['all']:.3f}"
        blanks = ["chance", NO_POOLING, "0.500", "", *([chance] * len(record["ks"])), ""]
        rows.append([*blanks, f"{question['chance']['positive']:.3f}"])
        counts = f"{question['num_nodules']} nodules ({question['num_positive']} positive)"
        parts.append(
            f"### {question['question']}\n\n{question['rule']}. {counts} of {question['num_patients']} patients."
        )
        parts.append(table(header, rows))
    parts.append(
        f"kNN: the {record['num_neighbours']} nearest nodules of the other folds vote with the weight "
        f"exp(similarity / {record['temperature']:g}), as in DINO (arXiv:2104.14294). Precision@k: the share of the "
        f"query's class among the k most alike nodules of all other patients, never of the same one. Similarity is "
        f"the cosine of features less their mean over all nodules; of sizes, the closeness of the diameters' "
        f"logarithms. Intervals resample patients."
    )
    return "\n\n".join(parts)


NEIGHBOURS = Part("neighbours", _measure, _section, _verdict)
