"""Which nodules and slices an evaluation shows, chosen by a rule and not by eye."""

from pathlib import Path
from typing import Any

import numpy as np

from . import figures
from .attention import AttentionField
from .features import patch_tokens
from .localisation import upsampled
from .material import Material
from .nodules import Field, Nodule, cut_field
from .subject import Subject

_NUM_NODULES = 5  # in the attention figure
_NUM_SLICES = 3  # in the figure of patch colours
_MOST_PATCHES = 64  # of a side there: attention grows with the fourth power of it
_SIZE_RANKS = (0.2, 0.98)  # the smallest fifth shows as one pixel or two


def draw_all(
    subject: Subject, material: Material, report: dict[str, Any], field: AttentionField, folder: Path
) -> dict[str, str]:
    """Draw every figure there is data for.

    Returns:
        By figure, its file relative to the report.
    """
    drawn = ["attention", "patch_colours"]
    _draw_attention(folder / "attention.png", material, field)
    _draw_patch_colours(folder / "patch_colours.png", subject, material)
    if subject.records and report["learning"]["log_k"] is not None:
        figures.draw_curves(folder / "training_curves.png", subject.records, report["learning"]["log_k"])
        drawn.append("training_curves")
    measured = [probe for probe in report["probes"] if probe["not_measured"] is None]
    if measured:
        figures.draw_probes(folder / "probes.png", measured)
        drawn.append("probes")
    return {name: f"figures/{name}.png" for name in drawn}


def _draw_attention(path: Path, material: Material, field: AttentionField) -> None:
    """Nodules from small to large, by their rank in size."""
    by_size = np.argsort([nodule.diameter_mm for nodule in material.nodules], kind="stable")
    ranks = np.linspace(*_SIZE_RANKS, min(_NUM_NODULES, len(by_size))) * (len(by_size) - 1)
    chosen = by_size[np.unique(ranks.round().astype(int))]
    maps = {
        "backbone": upsampled(field.trained.attention[chosen].mean(axis=1), field.size_px),
        "random weights": upsampled(field.random[0].attention[chosen].mean(axis=1), field.size_px),
    }
    middle = field.fields_hu[chosen, field.fields_hu.shape[1] // 2]
    titles = [f"{material.nodules[index].diameter_mm:.1f} mm" for index in chosen]
    figures.draw_attention(path, middle, field.masks[chosen], maps, titles)


def _draw_patch_colours(path: Path, subject: Subject, material: Material) -> None:
    """Whole slices through the largest nodule of different patients, as finely as the fields if that can be."""
    chosen = _largest_of_patients(material.nodules)[:_NUM_SLICES]
    rows = [material.scans.slice_of(nodule) for nodule in chosen]
    side_mm = max(
        pixels * mm
        for slices, row in rows
        for pixels, mm in zip(slices.pixels(row).shape, slices.spacing_mm(row)[1:], strict=True)
    )
    patch_size = subject.backbone.patch_size
    num_patches = round(side_mm * material.size_px / material.field_mm / patch_size)
    size_px = min(num_patches, _MOST_PATCHES) * patch_size
    slices_hu = []
    for slices, row in rows:
        pixels = slices.neighbours(row) if subject.channels == "neighbours" else slices.pixels(row)[None]
        extent = tuple(side_mm / mm for mm in slices.spacing_mm(row)[1:])
        whole = Field((pixels.shape[1] / 2, pixels.shape[2] / 2), extent)
        slices_hu.append(cut_field(pixels, whole, size_px, slices.padding_hu(row)))
    slices_hu = np.stack(slices_hu)
    spacing_mm = np.full((len(slices_hu), 2), side_mm / size_px)
    networks = {"backbone": subject.backbone, "random weights": subject.twins[0]}
    if subject.start and subject.start.backbone:
        networks = {"starting weights": subject.start.backbone} | networks
    tokens = {
        f"{name}, patch tokens": patch_tokens(network, slices_hu, spacing_mm) for name, network in networks.items()
    }
    titles = [f"patient {nodule.patient_id}" for nodule in chosen]
    figures.draw_patch_colours(path, slices_hu[:, slices_hu.shape[1] // 2], tokens, titles)


def _largest_of_patients(nodules: list[Nodule]) -> list[Nodule]:
    """The largest nodule of every patient, largest first."""
    largest_first = sorted(nodules, key=lambda nodule: (-nodule.diameter_mm, nodule.nodule_id))
    of_patient: dict[str, Nodule] = {}
    for nodule in largest_first:
        of_patient.setdefault(nodule.patient_id, nodule)
    return list(of_patient.values())
