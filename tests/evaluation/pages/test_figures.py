"""Every figure as a journal wants it: type, width, resolution, a vector file, no difference in colour alone."""

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from dinox_hf.evaluation.heads import mask_scores
from dinox_hf.evaluation.pages import figure_style, figures
from dinox_hf.evaluation.pages.figure_style import MIN_TYPE, PRINT_WIDTH
from dinox_hf.evaluation.pages.watch_figure import draw_watch

FEATURES = ("backbone", "starting weights", "random weights")


def score(features: str, pooling: str) -> dict:
    return {"features": features, "pooling": pooling, "auc": 0.6, "interval": [0.5, 0.7], "by_network": [0.55, 0.65]}


def draw(name: str, path) -> None:
    rng = np.random.default_rng(0)
    if name == "attention":
        masks = np.zeros((5, 32, 32), dtype=bool)
        masks[:, 10:20, 10:20] = True
        fields_hu = rng.normal(-700, 100, masks.shape)
        figures.draw_attention(
            path, fields_hu, masks, dict.fromkeys(FEATURES, rng.random(masks.shape)), ["9.0 mm"] * 5
        )
    elif name == "patch_colours":
        tokens = dict.fromkeys(FEATURES, rng.normal(size=(2, 8, 8, 4)))
        figures.draw_patch_colours(path, rng.normal(-700, 100, (2, 32, 32)), tokens, ["patient A", "patient B"])
    elif name == "training_curves":
        names = ("dino_global", "dino_local", "ibot", "gram", "koleo", "cls_loss", "teacher_entropy", "effective_rank")
        figures.draw_curves(path, [dict.fromkeys(names, s / 9) | {"step": s, "lr": 2e-4 * s} for s in range(9)], 5.5)
    elif name == "probes":
        scores = [score(features, pooling) for features in FEATURES for pooling in ("cls", "cls+mean")]
        scores += [score(features, "–") for features in ("raw pixels, PCA-64", "size only")]
        probe = {"question": "malignancy A, 6–14 mm", "num_positive": 86, "num_nodules": 174, "scores": scores}
        figures.draw_probes(path, [probe] * 11)
    elif name == "patch_probes":
        names = ("trained", "trained with Gram", "random weights")
        scores = [score(features, pooling) for features in names for pooling in ("cls", "mean", "max")]
        scores += [score(features, "–") for features in ("raw pixels, PCA-64", "size only")]
        figures.draw_patch_probes(path, {"calcification, 6–14 mm": scores, "texture": scores})
    elif name == "localisation":
        one = {"auprc": 0.4, "auprc_interval": [0.3, 0.5], "chance": 0.1}
        names = ("mean of heads", "similarity to other patients' nodules")
        maps = {f"{network}, {each}": one for network in FEATURES for each in names} | {"centre prior": one}
        field = {"name": "native resolution", "field_mm": 32.0, "size_px": 224, "maps": maps}
        figures.draw_localisation(path, [field | {"gains": [{"map": each} for each in names]}] * 3)
    elif name == "watch":
        names = ("backbone, cls", "random weights, cls", "raw pixels, PCA-64, –", "size only, –")
        score_of = dict.fromkeys(names, (0.6, 0.5, 0.7))
        point = {"cls_gain": [0.1, 0.0, 0.2], "auc": {"malignancy A": score_of}, "effective_rank": 9.0, "dense": {}}
        dense = {"outlines Dice, native resolution": {"backbone": 0.7, "random weights": 0.6}}
        draw_watch(path, [point | {"step": 10}, point | {"step": 20, "dense": dense}])
    elif name == "overlays":
        truth = np.zeros((12, 16, 16), dtype=bool)
        truth[:, 4:9, 4:9] = True
        masks = mask_scores.Masks(np.arange(12), rng.random(truth.shape), truth, {"head": np.roll(truth, 2, axis=1)})
        mask_scores.draw_overlays(masks, [{"dice, head": n / 12} for n in range(12)], "head", path)


@pytest.mark.parametrize(
    "name",
    ["attention", "patch_colours", "training_curves", "probes", "patch_probes", "localisation", "watch", "overlays"],
)
def test_a_figure_can_go_to_print(name, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(figure_style.plt, "close", seen.append)
    monkeypatch.setattr(figure_style, "DPI", 40)  # as many pixels as the test needs
    path = tmp_path / f"{name}.png"
    draw(name, path)
    (figure,) = seen

    assert figure.get_size_inches()[0] <= PRINT_WIDTH + 1e-6
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    assert texts and min(text.get_fontsize() for text in texts) >= MIN_TYPE
    # Nothing is cut off at the edge.
    drawn, page = figure.get_tightbbox(), figure.get_size_inches()
    assert min(drawn.x0, drawn.y0) >= -0.02 and (np.array([drawn.x1, drawn.y1]) <= page + 0.02).all()

    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes if axis.get_legend())]
    for legend in legends:
        shapes = [(line.get_marker(), str(line._dash_pattern)) for line in legend.legend_handles]
        assert len(set(shapes)) == len(shapes)
    with Image.open(path) as image:
        assert image.size[0] == pytest.approx(figure_style.DPI * page[0], abs=1)
    vector = path.with_suffix(".svg").read_text()
    assert vector.startswith("<?xml")
    assert ("<image" in vector) == (name in ("attention", "patch_colours", "overlays"))


def test_print_resolution():
    assert figure_style.DPI >= 200


def test_equal_numbers_give_equal_files(tmp_path, monkeypatch):
    monkeypatch.setattr(figure_style, "DPI", 40)
    for folder in ("a", "b"):
        draw("patch_probes", tmp_path / folder / "probes.png")
    for suffix in (".png", ".svg"):
        assert (tmp_path / "a" / f"probes{suffix}").read_bytes() == (tmp_path / "b" / f"probes{suffix}").read_bytes()
