"""The attention test in an evaluation: against the readers' outlines, or against discs where there are none."""

from typing import Any

import numpy as np

from ..maps.attention import CENTRE_PRIOR, DOUBLED, MEAN, AttentionField, attention_record, look, scales
from ..maps.localisation import non_negative, upsampled
from ..pages import figures
from ..pages.tables import figure, interval_text, table
from ..probes.probe_suite import BACKBONE, RANDOM, fewer_than_needed
from .bench import Bench
from .part import Part, Report

_NO_OUTLINES = "Not measured: attention against the readers' outlines, which these data do not hold."
CAPTION = (
    "CLS attention of the last layer, mean over heads, on nodules chosen by their rank in size. The field is shifted "
    "at random, so that the middle is no give-away. Outlined: {outlined}."
)
MAPS_CAPTION = (
    "Cosine similarity of the patch tokens to nodules of other patients, and their first principal component, of the "
    "backbone and of random weights, on the same nodules. Outlined: {outlined}."
)
SCORES_CAPTION = (
    "Do the maps lie on the nodule? Area under the precision-recall curve over pixels, points with 95 % intervals by "
    "patient. Dashed: a Gaussian in the middle of the field; dotted: chance."
)
_OUTLINE, _DISC = "what half of the readers or more drew", "a disc of the nodule's area, not the readers' outline"
_NUM_NODULES = 5  # in the figures
_SIZE_RANKS = (0.2, 0.98)  # the smallest fifth shows as one pixel or two
_HEADER = ["nodules", "pointing", "above chance", "95 % interval", "IoU", "Dice", "AUPRC", "95 % interval"]


def fitting_scales(bench: Bench) -> list[tuple[str, float, int]]:
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


def _measure(bench: Bench, report: Report) -> Report:
    records, fields = [], []
    for name, field_mm, size_px in fitting_scales(bench):
        bench.now(f"attention, {name}")
        networks = bench.subject.backbone, bench.subject.twins
        field = look(*networks, bench.material.source, field_mm, size_px, name)
        records.append(attention_record(field, bench.material.nodules))
        fields.append(_shown(field, bench.material.nodules.diameter_mm))
    if fields:
        _draw(bench, fields)
        figures.draw_localisation(bench.figure("localisation"), records)
    return {"attention": records}


def _shown(field: AttentionField, diameter_mm: np.ndarray) -> dict[str, Any]:
    """Nodules from small to large, by their rank in size, and what the figures show of them."""
    by_size = np.argsort(diameter_mm, kind="stable")
    ranks = np.linspace(*_SIZE_RANKS, min(_NUM_NODULES, len(by_size))) * (len(by_size) - 1)
    chosen = by_size[np.unique(ranks.round().astype(int))]
    networks = {BACKBONE: field.trained, RANDOM: field.random[0]}
    maps = {}
    if field.trained.others is not None:
        for label, kind in (("similarity", "others"), ("component", "component")):
            for name, made in networks.items():
                heat = non_negative(getattr(made, kind)[chosen])
                maps[f"{name},\n{label}"] = upsampled(heat, field.size_px)
    return {
        "fields_hu": field.fields_hu[chosen, field.fields_hu.shape[1] // 2],
        "masks": field.masks[chosen],
        "attention": {
            name: upsampled(made.attention[chosen].mean(axis=1), field.size_px) for name, made in networks.items()
        },
        "maps": maps,
        "titles": [f"{diameter_mm[index]:.1f} mm" for index in chosen],
    }


def _draw(bench: Bench, fields: list[dict[str, Any]]) -> None:
    """Attention in the widest field; similarity and component, which few patches show badly, at doubled resolution."""
    for name, shown, maps in (
        ("attention", fields[-1], "attention"),
        ("maps", fields[min(1, len(fields) - 1)], "maps"),
    ):
        if shown[maps]:
            path = bench.figure(name)
            figures.draw_attention(path, shown["fields_hu"], shown["masks"], shown[maps], shown["titles"])


def _verdict(report: Report) -> list[str]:
    if not report["attention"]:
        return ["Attention on nodules: not measured, the images are too small for a field off its nodule."]
    first, *others = report["attention"]
    line = _line(first)
    for field in others:
        if field["name"] == DOUBLED:
            trained, random = (field["maps"][f"{network}, {MEAN}"]["auprc"] for network in (BACKBONE, RANDOM))
            line += f" At {DOUBLED} AUPRC {trained:.3f}, random weights {random:.3f}."
    return [line]


def _line(field: dict[str, Any]) -> str:
    trained, random = field["maps"][f"{BACKBONE}, {MEAN}"], field["maps"][f"{RANDOM}, {MEAN}"]
    prior = field["maps"][CENTRE_PRIOR]
    return (
        f"Attention on nodules, mean of heads ({trained['num_nodules']} nodules, {field['field_mm']:g} mm field): "
        f"AUPRC {trained['auprc']:.3f}, random weights {random['auprc']:.3f}, centre prior {prior['auprc']:.3f}, "
        f"chance {trained['chance']:.3f}; pointing game {trained['pointing']:.3f}, random weights "
        f"{random['pointing']:.3f}, centre prior {prior['pointing']:.3f}."
    )


def _section(report: Report) -> str:
    fields = report["attention"]
    heading = "## Does attention find the nodule?"
    if not fields:
        return f"{heading}\n\nNot measured: the images are too small for a field that does not centre its nodule."
    has_outlines = report["data"]["has_outlines"]
    outlined = _OUTLINE if has_outlines else _DISC
    return "\n\n".join(
        filter(
            None,
            [
                heading,
                _too_few(fields[0]),
                _method(fields, "the mask of at least half of the readers" if has_outlines else _DISC),
                "" if has_outlines else _NO_OUTLINES,
                figure(report, "localisation", SCORES_CAPTION),
                *(_field(field) for field in fields),
                figure(report, "attention", CAPTION.format(outlined=outlined)),
                figure(report, "maps", MAPS_CAPTION.format(outlined=outlined)),
            ],
        )
    )


def _too_few(field: dict[str, Any]) -> str:
    scores = field["maps"][CENTRE_PRIOR]
    reason = fewer_than_needed(scores["num_nodules"], scores["num_patients"])
    return f"**So few nodules or patients make no interval:** {reason}. Those below say nothing." if reason else ""


def _method(fields: list[dict[str, Any]], against: str) -> str:
    chance = " and ".join(f"{field['maps'][CENTRE_PRIOR]['chance']:.3f} ({field['name']})" for field in fields)
    return (
        f"Maps on the patch grid, upsampled to the field, against {against}. Each field is shifted off its nodule by "
        f"a random amount up to a quarter of its side; the centre prior, a Gaussian in the middle, shows what is left "
        f"of that advantage. Doubled resolution shows the same millimetres in twice the pixels, so in four times the "
        f"patches. Pointing is the share of nodules that hold the map's maximum; a blind map hits {chance}, which "
        f"`above chance` takes out: 0 for a blind map, 1 for one that always hits. IoU and Dice compare the nodule "
        f"with the brightest pixels that hold 60 % of the map.\n\n"
        f"What needs a choice makes it on one half of the patients and is scored on the other: the best head by its "
        f"AUPRC there, the tokens of nodules that similarity looks for, the first component and its sign. Similarity "
        f"to the nodule's own patches is told where the nodule is: it says how far the nodule stands out, not that it "
        f"was found. Maps other than attention are heat above their least value. Random weights are the mean over "
        f"networks of the same architecture."
    )


def _field(field: dict[str, Any]) -> str:
    parts = [f"### {field['name'].capitalize()}: {field['field_mm']:g} mm field at {field['size_px']} px"]
    parts.append(table(["map", *_HEADER], [[name, *_row(scores)] for name, scores in field["maps"].items()]))
    gains = [
        [gain["map"], f"{gain['auprc_gain']:+.3f}", interval_text(gain["interval"], "+.3f")] for gain in field["gains"]
    ]
    parts.append(table(["backbone over random weights", "AUPRC", "95 % interval, paired"], gains))
    rows = [
        [diameter_text(stratum), name, *_row(scores)]
        for stratum in field["by_diameter"]
        for name, scores in stratum["maps"].items()
    ]
    parts.append(table(["diameter", "map", *_HEADER], rows))
    return "\n\n".join(parts)


def diameter_text(stratum: dict[str, Any]) -> str:
    """A stratum of diameters in words: "6–10 mm" or "≥ 14 mm"."""
    low, high = stratum["from_mm"], stratum["to_mm"]
    return f"≥ {low:g} mm" if high is None else f"{low:g}–{high:g} mm"


def _row(scores: dict[str, Any]) -> list[str]:
    return [
        str(scores["num_nodules"]),
        f"{scores['pointing']:.3f}",
        f"{scores['above_chance']:+.3f}",
        interval_text(scores["above_chance_interval"], "+.3f"),
        f"{scores['iou']:.3f}",
        f"{scores['dice']:.3f}",
        f"{scores['auprc']:.3f}",
        interval_text(scores["auprc_interval"]),
    ]


ATTENTION = Part("attention", _measure, _section, _verdict)
