"""One evaluation from end to end: backbone and nodules in, report and figures out."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .attention import attention_record, look
from .before_after import before_after_record
from .collapse import collapse_scores
from .features import POOLINGS, Backbone, cached, pooled_features
from .learning import learning_criteria, learning_facts
from .material import Material, gather
from .pictures import draw_all
from .probe_suite import (
    BACKBONE,
    RANDOM,
    START,
    ProbeInputs,
    answer_all,
    mean_gain,
    probe_record,
    questions,
)
from .report import write_report
from .subject import EvaluationSettings, Subject, load_subject

Features = dict[str, dict[str, np.ndarray]]  # "nodules" and "slices": by pooling, (n, D)


def evaluate(source: str, data: str | None, out: str | None, settings: EvaluationSettings) -> Path:
    """Evaluate a backbone and write report.json, report.md and figures/.

    Args:
        source: a run folder, a transformers folder or a Hub id.
        data: a built set with nodules; None takes the one the run was trained on.
        out: where to write; None takes `evaluation/` in the run folder.
        settings: see `EvaluationSettings`.

    Returns:
        The folder written to.

    Raises:
        ValueError: if backbone or data are missing or do not fit each other.
    """
    subject = load_subject(source, settings.num_random)
    folder, out_folder = subject.data_folder(data), subject.out_folder(out)
    # Nothing where the run began with a random draw, or where the weights are gone.
    start = [subject.start.backbone] if subject.start and subject.start.backbone else []
    num_parts = 1 + (1 + len(start) + settings.num_random) + len(questions()) + 2 + 1
    with tqdm(total=num_parts, desc="evaluate", unit="part") as progress:
        material = gather(subject, folder, settings)
        progress.update()
        networks = [subject.backbone, *start, *subject.twins]
        trained, *rest = _features(networks, material, out_folder / "features", progress.update)
        before, random = (rest[0] if start else None), rest[len(start) :]
        inputs = _probe_inputs(material, trained, before, random)
        answers = answer_all(inputs, settings.num_seeds, os.cpu_count() or 1, progress.update)
        fields = []
        for scale in (1, 2):  # the field of the probe, and twice its side at the same millimetres per pixel
            size_px, field_mm = scale * material.size_px, scale * settings.field_mm
            nodules = material.nodules
            fields.append(look(subject.backbone, subject.twins, material.scans, nodules, field_mm, size_px))
            progress.update()
        report = _about(subject, material, settings, folder)
        report["collapse"] = _collapse(material, trained, before, random)
        report["probes"] = [probe_record(answer) for answer in answers]
        report["cls_gain"] = mean_gain(answers)
        others = [mean_gain(answers, pooling) for pooling in POOLINGS if pooling != "cls"]
        report["other_gains"] = [gain for gain in others if gain is not None]
        report["before_after"] = before_after_record(subject.start, answers, subject.config)
        report["attention"] = [attention_record(field, material.nodules) for field in fields]
        facts = learning_facts(subject.config, subject.records)
        gain = report["cls_gain"] and report["cls_gain"]["gain"]
        rank = report["collapse"]["slices"]["backbone"]["effective_rank"]
        report["learning"] = facts | {"criteria": learning_criteria(facts, rank, gain)}
        report["figures"] = draw_all(subject, material, report, fields[-1], out_folder / "figures")
        progress.update()
    write_report(report, out_folder)
    return out_folder


def _features(networks: list[Backbone], material: Material, cache: Path, done: Callable[[], None]) -> list[Features]:
    """Pooled features of every network for nodules and slices, from the cache where they lie there."""
    by_network = []
    for network in networks:
        features = {}
        for name, fields_hu in material.images.items():
            key = material.key | {
                "of": name,
                "weights": network.digest,
                "processor": network.processor.to_json_string(),
            }
            inputs = network, fields_hu, material.spacing_mm[name]
            features[name] = cached(cache, key, lambda inputs=inputs: pooled_features(*inputs))
        by_network.append(features)
        done()
    return by_network


def _probe_inputs(
    material: Material, trained: Features, start: Features | None, random: list[Features]
) -> ProbeInputs:
    nodules, fields_hu = material.nodules, material.images["nodules"]
    middle = fields_hu[:, fields_hu.shape[1] // 2]
    return ProbeInputs(
        patient_ids=material.nodule_patients,
        diameter_mm=np.array([nodule.diameter_mm for nodule in nodules]),
        ratings={name: [nodule.ratings[name] for nodule in nodules] for name in nodules[0].ratings},
        trained=trained["nodules"],
        start=start["nodules"] if start else None,
        random=[features["nodules"] for features in random],
        pixels=middle.reshape(len(middle), -1),
    )


def _collapse(material: Material, trained: Features, start: Features | None, random: list[Features]) -> dict[str, Any]:
    """CLS features of nodules and of slices, each beside those of the starting weights and the random twins' mean."""
    record = {}
    for name, patients in (("nodules", material.nodule_patients), ("slices", material.slice_patients)):
        twins = [collapse_scores(features[name]["cls"], patients) for features in random]
        mean = {
            key: None if value is None else type(value)(np.mean([twin[key] for twin in twins]))
            for key, value in twins[0].items()
        }
        record[name] = {BACKBONE: collapse_scores(trained[name]["cls"], patients)}
        if start is not None:
            record[name][START] = collapse_scores(start[name]["cls"], patients)
        record[name][RANDOM] = mean
    return record


def _about(subject: Subject, material: Material, settings: EvaluationSettings, folder: Path) -> dict[str, Any]:
    """What was evaluated, on what, and how; folder names only, since reports travel with published weights."""
    model = subject.backbone.model.config
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "num_register_tokens")
    splits = {
        name: {
            "num_slices": len(slices),
            "num_nodules": sum(nodule.split == name for nodule in material.nodules),
            "num_patients": len({slices.patient_id(row) for row in range(len(slices))}),
        }
        for name, slices in material.scans.splits.items()
    }
    return {
        "backbone": {
            "name": Path(subject.source).name,
            "checkpoint": subject.checkpoint,
            "weights_digest": subject.backbone.digest,
            "architecture": {name: getattr(model, name) for name in names},
            "channels": subject.channels,
        },
        "data": {
            "name": folder.name,
            "fingerprint": material.scans.fingerprint,
            "splits": splits,
            "num_nodules": len(material.nodules),
            "num_patients": len(np.unique(material.nodule_patients)),
            "seen_in_pretraining": subject.seen_in_pretraining(folder),
        },
        "settings": asdict(settings) | {"size_px": material.size_px},
    }
