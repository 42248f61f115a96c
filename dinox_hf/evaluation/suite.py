"""One evaluation from end to end: backbone and nodules in, report and figures out.

An evaluation is a list of parts, `PARTS`. A part is a value of `Part`, in a module of its own, of three functions:

    measure(bench, report) -> dict     computes; what it returns is added to report.json under these keys, so plain
                                       JSON values, of which no key is taken yet
    section(report) -> str             its Markdown in report.md, from the report alone; "" for nothing to say
    verdict(report) -> list of lines   what belongs into the summary at the top, if anything

`bench` holds the subject (the backbone, its starting weights, its random twins), `bench.material.nodules` (patient,
diameter and ratings of every nodule, in one order), `bench.features(network)` (pooled features in that order, from
the cache), `bench.material.source` (pixels and masks: whole slices with outlines, or patches without),
`bench.figure(name)` (where to draw), and `bench.now(text)` (beside the progress bar). `report` holds what the parts
before have measured. What the data cannot give stands in the report as the reason why it was not measured, and its
section tells it. What takes long is kept with `features.cached` under `bench.cache`, so that a killed evaluation goes
on where it was.
To add a part: write its module, and name it in `PARTS`.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .backbones.pretraining_patients import seen_text
from .backbones.subject import EvaluationSettings, Subject, load_subject
from .cohorts.material import Material, gather
from .cohorts.nodule_sources import open_source
from .pages.report import write_report
from .parts.attention_part import ATTENTION
from .parts.bench import Bench
from .parts.collapse_part import COLLAPSE
from .parts.label_efficiency_part import LABEL_EFFICIENCY
from .parts.learning_part import LEARNING
from .parts.neighbours_part import NEIGHBOURS
from .parts.part import Part
from .parts.patch_colours_part import PATCH_COLOURS
from .parts.probe_part import PROBES
from .parts.readers_part import READERS
from .parts.segmentation_part import SEGMENTATION

PARTS: tuple[Part, ...] = (
    *(PROBES, NEIGHBOURS, READERS, LABEL_EFFICIENCY),
    *(COLLAPSE, LEARNING, PATCH_COLOURS, ATTENTION, SEGMENTATION),
)

LIGHT_PARTS: tuple[Part, ...] = (PROBES, COLLAPSE, LEARNING)  # what tells soonest whether a run learns


def evaluate(
    source: str,
    data: str | None,
    out: str | None,
    settings: EvaluationSettings,
    parts: Sequence[Part] = PARTS,
    step: int | None = None,
    cache: Path | None = None,
) -> Path:
    """Evaluate a backbone and write report.json, report.md and figures/.

    Args:
        source: a run folder, a transformers folder, a Hub id, or `random:PRESET`.
        data: a built set with nodules, an npz of nodule patches or a folder with one; None takes the set that the run
            was trained on.
        out: where to write; None takes a folder in the run folder, see `Subject.out_folder`.
        settings: see `EvaluationSettings`.
        parts: what to measure, in the order of the report.
        step: of a run, the checkpoint to evaluate; None takes the latest.
        cache: folder of features and scores that several evaluations share; None keeps them beside the report.

    Returns:
        The folder written to.

    Raises:
        ValueError: if backbone or data are missing or do not fit each other, or features are not finite.
    """
    subject = load_subject(source, settings.num_random, step)
    nodules, out_folder = open_source(subject.data_folder(data)), subject.out_folder(out, data)
    seen = subject.seen()
    if settings.unseen_only:
        _refuse_unknown(seen, source)
        nodules = nodules.without(seen.seen)
    networks = 1 + len(subject.twins) + bool(subject.start and subject.start.backbone)
    with tqdm(total=1 + networks + len(parts), desc="evaluate", unit="part") as progress:
        material = gather(subject, nodules, settings)
        progress.update()
        bench = Bench(subject, material, settings, out_folder, cache or out_folder, os.cpu_count() or 1, progress)
        for network in bench.networks:
            for images in material.images:
                bench.now(f"features of {images}")
                bench.features(network, images)
            progress.update()
        report = _about(subject, material, settings)
        report["figures"] = bench.figures
        for part in parts:
            bench.now(part.name)
            report |= part.measure(bench, report)
            progress.update()
    write_report(report, parts, out_folder)
    return out_folder


def _refuse_unknown(seen, source: str) -> None:
    if seen is None or seen.unknown:
        why = "; ".join(seen.unknown) if seen else "it comes without its run.yaml"
        raise ValueError(
            f"--unseen-only expects to know whom {source} was trained on; found that it is not known ({why}). Put the "
            f"set back where the run had it, or leave --unseen-only out."
        )


def _about(subject: Subject, material: Material, settings: EvaluationSettings) -> dict[str, Any]:
    """What was evaluated, on what, and how; folder names only, since reports travel with published weights."""
    model, source = subject.backbone.model.config, material.source
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "num_register_tokens")
    seen = subject.seen_record(material.nodules.patient_ids)
    return {
        "backbone": {
            "name": Path(subject.source).name,
            "checkpoint": subject.checkpoint,
            "weights_digest": subject.backbone.digest,
            "architecture": {name: getattr(model, name) for name in names},
            "channels": subject.channels,
        },
        "data": {
            "name": source.name,
            "fingerprint": source.fingerprint,
            "splits": source.counts(),
            "num_nodules": len(material.nodules),
            "num_patients": len(np.unique(material.nodules.patient_ids)),
            "has_outlines": source.has_outlines,
            "pretraining": seen,
            "seen_in_pretraining": seen_text(seen, settings.unseen_only),
        },
        "settings": asdict(settings) | {"size_px": material.size_px},
    }
