"""Patch tokens as colours in an evaluation: the surroundings of the largest nodules of different patients."""

import numpy as np

from ..backbones.features import patch_tokens
from ..cohorts.nodule_sources import NoduleTable
from ..cohorts.nodules import Field, cut_field
from ..pages import figures
from ..pages.tables import figure
from .bench import Bench
from .part import Part, Report

CAPTION = (
    "First three principal components of the patch tokens inside the body as red, green and blue; air is black. Equal "
    "colours mean similar tokens, within one column."
)
_NUM_IMAGES = 3
_MOST_PATCHES = 64  # of a side: attention grows with the fourth power of it


def _measure(bench: Bench, report: Report) -> Report:
    """Whole slices, or whole patches where there are no slices, as finely as the fields if that can be."""
    material, subject = bench.material, bench.subject
    chosen = _largest_of_patients(material.nodules)[:_NUM_IMAGES]
    images = [material.source.surroundings(index, subject.channels) for index in chosen]
    side_mm = max(side * mm for pixels, mm_yx, _ in images for side, mm in zip(pixels.shape[1:], mm_yx, strict=True))
    patch_size = subject.backbone.patch_size
    num_patches = max(2, round(side_mm * material.size_px / material.field_mm / patch_size))
    size_px = min(num_patches, _MOST_PATCHES) * patch_size
    slices_hu = []
    for pixels, mm_yx, padding_hu in images:
        whole = Field((pixels.shape[1] / 2, pixels.shape[2] / 2), tuple(side_mm / mm for mm in mm_yx))
        slices_hu.append(cut_field(pixels, whole, size_px, padding_hu))
    slices_hu = np.stack(slices_hu)
    spacing_mm = np.full((len(slices_hu), 2), side_mm / size_px)
    networks = {"starting weights": bench.start} if bench.start else {}
    networks |= {"backbone": subject.backbone, "random weights": subject.twins[0]}
    tokens = {
        f"{name}, patch tokens": patch_tokens(network, slices_hu, spacing_mm) for name, network in networks.items()
    }
    titles = [f"patient {material.nodules.patient_ids[index]}" for index in chosen]
    path = bench.figure("patch_colours")
    figures.draw_patch_colours(path, slices_hu[:, slices_hu.shape[1] // 2], tokens, titles)
    return {}


def _section(report: Report) -> str:
    return figure(report, "patch_colours", CAPTION)


def _largest_of_patients(nodules: NoduleTable) -> list[int]:
    """The largest nodule of every patient, largest first."""
    largest_first = sorted(range(len(nodules)), key=lambda n: (-nodules.diameter_mm[n], nodules.nodule_ids[n]))
    of_patient: dict[str, int] = {}
    for index in largest_first:
        of_patient.setdefault(nodules.patient_ids[index], index)
    return list(of_patient.values())


PATCH_COLOURS = Part("patch colours", _measure, _section)
