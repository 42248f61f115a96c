"""The attention test in an evaluation: against the readers' outlines, or against discs where there are none."""

from typing import Any

import numpy as np

from . import figures
from .attention import AttentionField, attention_record, look, scales
from .bench import Bench
from .localisation import upsampled
from .part import Part, Report
from .tables import figure, interval_text, table

_NO_OUTLINES = "Not measured: attention against the readers' outlines, which these data do not hold."
CAPTION = (
    "CLS attention of the last layer, mean over heads, on nodules chosen by their rank in size. The field is shifted "
    "at random, so that the middle is no give-away. Outlined: {outlined}."
)
_OUTLINE, _DISC = "what half of the readers or more drew", "a disc of the nodule's area, not the readers' outline"
_NUM_NODULES = 5  # in the figure
_SIZE_RANKS = (0.2, 0.98)  # the smallest fifth shows as one pixel or two


def _measure(bench: Bench, report: Report) -> Report:
    fields = []
    for name, field_mm, size_px in _fields(bench):
        bench.now(f"attention, {name}")
        networks = bench.subject.backbone, bench.subject.twins
        fields.append(look(*networks, bench.material.source, field_mm, size_px, name))
    if fields:
        _draw(bench, fields[-1])
    return {"attention": [attention_record(field, bench.material.nodules) for field in fields]}


def _fields(bench: Bench) -> list[tuple[str, float, int]]:
    """Those of `scales` that, shifted, still lie in every image.

    Where not even the field of the probe does, the widest that does takes its place, at the same millimetres per
    pixel; a single patch of the network is none.
    """
    material, patch_size = bench.material, bench.subject.backbone.patch_size
    field_mm, size_px = material.field_mm, material.size_px
    widest_mm = material.source.widest_shifted_mm()
    if field_mm > widest_mm:
        mm_per_px = field_mm / size_px
        size_px = int(widest_mm / mm_per_px / patch_size) * patch_size
        field_mm = size_px * mm_per_px
    if size_px <= patch_size:
        return []
    return [scale for scale in scales(field_mm, size_px) if scale[1] <= widest_mm]


def _draw(bench: Bench, field: AttentionField) -> None:
    """Nodules from small to large, by their rank in size."""
    diameter_mm = bench.material.nodules.diameter_mm
    by_size = np.argsort(diameter_mm, kind="stable")
    ranks = np.linspace(*_SIZE_RANKS, min(_NUM_NODULES, len(by_size))) * (len(by_size) - 1)
    chosen = by_size[np.unique(ranks.round().astype(int))]
    maps = {
        "backbone": upsampled(field.trained.attention[chosen].mean(axis=1), field.size_px),
        "random weights": upsampled(field.random[0].attention[chosen].mean(axis=1), field.size_px),
    }
    middle = field.fields_hu[chosen, field.fields_hu.shape[1] // 2]
    titles = [f"{diameter_mm[index]:.1f} mm" for index in chosen]
    figures.draw_attention(bench.figure("attention"), middle, field.masks[chosen], maps, titles)


def _verdict(report: Report) -> list[str]:
    if not report["attention"]:
        return ["Attention on nodules: not measured, the images are too small for a field off its nodule."]
    return [_line(report["attention"][0])]


def _line(field: dict[str, Any]) -> str:
    trained, random = field["maps"]["backbone, mean of heads"], field["maps"]["random weights, mean of heads"]
    return (
        f"Attention on nodules, mean of heads ({trained['num_nodules']} nodules, {field['field_mm']:.3g} mm field): "
        f"AUPRC {trained['auprc']:.3f}, random weights {random['auprc']:.3f}, "
        f"centre prior {field['maps']['centre prior']['auprc']:.3f}, chance {trained['chance']:.3f}; pointing game "
        f"{trained['pointing']:.3f}, random weights {random['pointing']:.3f}, "
        f"centre prior {field['maps']['centre prior']['pointing']:.3f}."
    )


def _section(report: Report) -> str:
    fields = report["attention"]
    parts = ["## Does attention find the nodule?"]
    if not fields:
        return f"{parts[0]}\n\nNot measured: the images are too small for a field that does not centre its nodule."
    for field in fields:
        parts.append(f"### {field['field_mm']:.3g} mm field at {field['size_px']} px")
        rows = [[name, *_row(scores)] for name, scores in field["maps"].items()]
        header = [
            "map",
            "nodules",
            "pointing",
            "above chance",
            "95 % interval",
            "IoU at 60 % mass",
            "AUPRC",
            "95 % interval",
        ]
        parts.append(table(header, rows))
        rows = []
        for stratum in field["by_diameter"]:
            high = stratum["to_mm"]
            name = f"{stratum['from_mm']:g}–{high:g} mm" if high is not None else f"≥ {stratum['from_mm']:g} mm"
            for map_ in ("backbone, mean of heads", "random weights, mean of heads"):
                rows.append([name, map_, *_row(stratum["maps"][map_])])
        parts.append(table(["diameter", *header], rows))
    chance = " and ".join(f"{field['maps']['centre prior']['chance']:.3f}" for field in fields)
    against = "the mask of at least half of the readers" if report["data"]["has_outlines"] else _DISC
    parts.append(
        f"CLS attention of the last layer, upsampled to the field, against {against}. "
        f"Each field is shifted off its nodule by a random amount up to a quarter of its side; the centre prior, a "
        f"Gaussian in the middle, shows what is left of that advantage. Pointing is the share of nodules that hold "
        f"the map's maximum; a blind map hits {chance} in the field{'s' if len(fields) > 1 else ''}, which `above "
        f"chance` takes out. The best head is chosen by AUPRC on one half of the patients and scored on the other."
    )
    outlined = _OUTLINE if report["data"]["has_outlines"] else _DISC
    missing = "" if report["data"]["has_outlines"] else _NO_OUTLINES
    shown = figure(report, "attention", CAPTION.format(outlined=outlined))
    return "\n\n".join(part for part in (*parts, missing, shown) if part)


def _row(scores: dict[str, Any]) -> list[str]:
    return [
        str(scores["num_nodules"]),
        f"{scores['pointing']:.3f}",
        f"{scores['above_chance']:+.3f}",
        interval_text(scores["above_chance_interval"], "+.3f"),
        f"{scores['iou']:.3f}",
        f"{scores['auprc']:.3f}",
        interval_text(scores["auprc_interval"]),
    ]


ATTENTION = Part("attention", _measure, _section, _verdict)
