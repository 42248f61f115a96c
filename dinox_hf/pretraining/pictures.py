"""Fixed slices as the teacher sees them: where its CLS token looks, and which patches it takes to be alike."""

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from torch import Tensor

from ..metrics.component_colours import component_colours
from ..model.modeling_dinov3_ct import Dinov3CTModel

matplotlib.use("Agg")


class TeacherView(NamedTuple):
    """What there is to draw of B slices."""

    attention: np.ndarray  # (B, h, w) of the CLS token in the last layer, mean over heads
    colours: np.ndarray  # (B, h, w, 3) in [0, 1]: first three principal components of patch tokens


@torch.no_grad()
def teacher_view(backbone: Dinov3CTModel, pixel_values: Tensor, spacing_mm: Tensor | None = None) -> TeacherView:
    """Attention and patch colours of normalised slices (B, 3, S, S); the backbone is in eval mode for the call.

    A backbone with metric coordinates is told their millimetres per pixel (B, 2).

    One basis of colours for all slices, so that equal colours mean equal features.
    """
    was_training = backbone.training
    backbone.eval()
    first_patch = 1 + backbone.config.num_register_tokens
    tokens = backbone(pixel_values, spacing_mm=spacing_mm).last_hidden_state[:, first_patch:].float().cpu()
    rows = backbone.cls_attention_rows(pixel_values, spacing_mm)[-1][:, :, 0, first_patch:].mean(dim=1).float().cpu()
    backbone.train(was_training)
    grid = (len(rows), round(rows.shape[1] ** 0.5), -1)
    colours = component_colours(tokens.flatten(0, 1).numpy())
    return TeacherView(rows.numpy().reshape(grid), colours.reshape(*grid, 3))


def draw_slices(path: Path, pixel_values: Tensor, view: TeacherView, title: str) -> np.ndarray:
    """Draw rows of slices (first channel), attention and colours; returns the picture, (H, W, 3) uint8."""
    import matplotlib.pyplot as plt

    rows = {
        "slice": (pixel_values[:, 0].float().cpu().numpy(), "gray"),
        "attention of the CLS token": (view.attention, "magma"),
        "patch tokens, first three components": (view.colours, None),
    }
    count = len(pixel_values)
    figure, axes = plt.subplots(len(rows), count, figsize=(2.2 * count, 7.0), squeeze=False, layout="constrained")
    for line, (name, (images, colour_map)) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image, cmap=colour_map, interpolation="nearest")
            axis.set_axis_off()
        line[0].set_title(name, loc="left", fontsize=9)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    plt.close(figure)
    return picture
