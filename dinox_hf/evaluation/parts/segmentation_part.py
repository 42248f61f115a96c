"""Dense quality in an evaluation: frozen patch tokens that outline nodules by a linear probe, beside raw pixels."""

from typing import Any

import numpy as np

from ..backbones.features import Backbone, cached, patch_tokens
from ..cohorts.splits import patient_resamples
from ..maps.attention import DOUBLED, NATIVE
from ..maps.localisation import DIAMETER_BINS_MM, average, patch_masks, shifts_off_centre
from ..pages.tables import interval_text, table
from ..probes.linear_probe import interval
from ..probes.probe_suite import BACKBONE, RANDOM, START
from ..probes.segmentation_probe import (
    PatchScores,
    patient_deal,
    predict_patches,
    raw_patches,
    score_patches,
    score_record,
)
from .attention_part import diameter_text, fitting_scales
from .bench import Bench
from .part import Part, Report

PIXELS = "raw pixels of the patch"
_MOST_NODULES = 300  # whose tokens are held in memory
_CACHE_FORMAT = 1  # raise it when the same key would give other scores


def _measure(bench: Bench, report: Report) -> Report:
    source = bench.material.source
    if not source.has_outlines:
        return {"segmentation": {"not_measured": "these data hold no outlines", "fields": []}}
    rows = np.unique(np.linspace(0, len(source.table) - 1, _MOST_NODULES).round().astype(int))
    patient_ids, diameter_mm = source.table.patient_ids[rows], source.table.diameter_mm[rows]
    try:
        folds = patient_deal(patient_ids)
    except ValueError as error:
        return {"segmentation": {"not_measured": str(error), "fields": []}}
    fields = []
    for name, field_mm, size_px in fitting_scales(bench):
        if name in (NATIVE, DOUBLED):
            bench.now(f"outlines, {name}")
            scores = _scores_in(bench, field_mm, size_px, rows, folds)
            about = {"name": name, "field_mm": field_mm, "size_px": size_px}
            fields.append(about | _record(scores, patient_ids, diameter_mm))
    reason = None if fields else "the images are too small for a field that does not centre its nodule"
    return {"segmentation": {"not_measured": reason, "fields": fields}}


def _scores_in(
    bench: Bench, field_mm: float, size_px: int, rows: np.ndarray, folds: np.ndarray
) -> dict[str, PatchScores]:
    """Scores of every network and of raw pixels in fields of one size."""
    source, subject = bench.material.source, bench.subject
    shifts = shifts_off_centre(len(source.table))
    fields_hu, masks = (each[rows] for each in source.fields(field_mm, size_px, subject.channels, shifts))
    truth = patch_masks(masks, size_px // subject.backbone.patch_size)
    spacing_mm = np.full((len(rows), 2), field_mm / size_px)

    def of_network(network: Backbone) -> PatchScores:
        def compute() -> dict[str, np.ndarray]:
            scores = score_patches(*predict_patches(patch_tokens(network, fields_hu, spacing_mm), truth, folds), truth)
            return vars(scores)

        of = {"of": "segmentation probe", "format": _CACHE_FORMAT, "field_mm": field_mm, "size_px": size_px}
        asked = {"rows": rows.tolist(), "folds": folds.tolist(), "data": source.fingerprint}
        return PatchScores(**cached(bench.cache / "scores", bench.key(network) | of | asked, compute))

    pixels = raw_patches(fields_hu, subject.backbone.patch_size)
    scores = {BACKBONE: of_network(subject.backbone)}
    if bench.start:
        scores[START] = of_network(bench.start)
    scores[RANDOM] = average([of_network(twin) for twin in subject.twins])
    scores[PIXELS] = score_patches(*predict_patches(pixels, truth, folds), truth)
    return scores


def _record(scores: dict[str, PatchScores], patient_ids: np.ndarray, diameter_mm: np.ndarray) -> dict[str, Any]:
    by_diameter = []
    for low, high in DIAMETER_BINS_MM:
        rows = (diameter_mm >= low) & (diameter_mm < high)
        if rows.any():
            found = {name: score_record(each, patient_ids, rows) for name, each in scores.items()}
            by_diameter.append({"from_mm": low, "to_mm": None if np.isinf(high) else high, "scores": found})
    return {
        "scores": {name: score_record(each, patient_ids) for name, each in scores.items()},
        "gains": [_gain(scores, over, patient_ids) for over in scores if over != BACKBONE],
        "by_diameter": by_diameter,
    }


def _gain(scores: dict[str, PatchScores], over: str, patient_ids: np.ndarray) -> dict[str, Any]:
    """How much Dice and AUPRC the backbone has over another on the same nodules, by the paired bootstrap."""
    resamples, gain = patient_resamples(patient_ids), {"over": over}
    for score in ("dice", "auprc"):
        difference = getattr(scores[BACKBONE], score) - getattr(scores[over], score)
        gain[score] = float(difference.mean())
        gain[f"{score}_interval"] = interval(resamples @ difference / resamples.sum(axis=1))
    return gain


def _verdict(report: Report) -> list[str]:
    segmentation = report["segmentation"]
    if segmentation["not_measured"]:
        return [f"Outlines from patch tokens: not measured – {segmentation['not_measured'].rstrip('.')}."]
    lines = []
    for field in segmentation["fields"]:
        listed = ", ".join(f"{name} {scores['dice']:.3f}" for name, scores in field["scores"].items())
        lines.append(f"Outlines from patch tokens, {field['name']}, Dice by patch: {listed}.")
    return lines


def _section(report: Report) -> str:
    segmentation, heading = report["segmentation"], "## Do patch tokens outline the nodule?"
    if segmentation["not_measured"]:
        return f"{heading}\n\nNot measured: {segmentation['not_measured'].rstrip('.')}."
    parts = [
        heading,
        "A linear probe on frozen patch tokens: is a patch nodule or not? A patch counts as nodule where at least "
        "half of it lies in the mask of at least half of the readers, of a smaller nodule the fullest patch. Least "
        "squares, five folds grouped by patient; penalty and threshold are chosen on the other folds. Fields as for "
        "attention, not centred on the nodule. Dice, IoU and AUPRC are over the patches of a field, means over "
        "nodules with intervals by patient. Raw pixels are those of the patch alone, in HU.",
    ]
    header = ["nodules", "Dice", "95 % interval", "IoU", "95 % interval", "AUPRC", "95 % interval"]
    for field in segmentation["fields"]:
        parts.append(f"### {field['name'].capitalize()}: {field['field_mm']:g} mm field at {field['size_px']} px")
        parts.append(table(["features", *header], [[name, *_row(found)] for name, found in field["scores"].items()]))
        gains = [
            [
                gain["over"],
                *(
                    text
                    for score in ("dice", "auprc")
                    for text in (f"{gain[score]:+.3f}", interval_text(gain[f"{score}_interval"], "+.3f"))
                ),
            ]
            for gain in field["gains"]
        ]
        parts.append(
            table(["backbone over", "Dice", "95 % interval, paired", "AUPRC", "95 % interval, paired"], gains)
        )
        rows = [
            [diameter_text(stratum), name, *_row(found)]
            for stratum in field["by_diameter"]
            for name, found in stratum["scores"].items()
        ]
        parts.append(table(["diameter", "features", *header], rows))
    return "\n\n".join(parts)


def _row(found: dict[str, Any]) -> list[str]:
    cells = [str(found["num_nodules"])]
    for score in ("dice", "iou", "auprc"):
        cells += [f"{found[score]:.3f}", interval_text(found[f"{score}_interval"])]
    return cells


SEGMENTATION = Part("outlines", _measure, _section, _verdict)
