"""Where a run's numbers and pictures go: metrics.jsonl always, Accelerate's trackers on top, PNGs of fixed slices."""

import importlib.util
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import Tensor

from ..model.modeling_dinov3_ct import Dinov3CTModel

matplotlib.use("Agg")


class MetricsFile:
    """One JSON object a logged step; a resumed run drops the lines that its checkpoint does not know yet."""

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        lines = path.read_text().splitlines(keepends=True) if path.is_file() and last_step > 0 else []
        path.write_text("".join(line for line in lines if _step_of(line) <= last_step))

    def append(self, record: dict[str, float]) -> None:
        """Add one line; it is on its way to the disk when this returns."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # the half line of a killed run


def available_trackers(names: tuple[str, ...]) -> list[str] | None:
    """The trackers that are asked for, None for none.

    Raises:
        ValueError: one of them is not installed; Accelerate would skip it without a word.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"trackers names `{name}`; found no package of that name. Install it (pip install {name}) or set "
                f"--trackers=[tensorboard]."
            )
    return list(names) or None


@torch.no_grad()
def patch_colours(backbone: Dinov3CTModel, pixel_values: Tensor) -> np.ndarray:
    """First three principal components of patch tokens as colours: what the network tells apart.

    Args:
        backbone: any backbone; it is put into eval mode for the call.
        pixel_values: (B, 3, S, S) normalised slices.

    Returns:
        (B, h, w, 3) float in [0, 1], one basis for all slices, so that equal colours mean equal features.
    """
    was_training = backbone.training
    tokens = backbone.eval()(pixel_values).last_hidden_state[:, 1 + backbone.config.num_register_tokens :]
    backbone.train(was_training)
    batch, num_patches, _ = tokens.shape
    flat = tokens.flatten(0, 1).float().cpu()
    flat = flat - flat.mean(0)
    _, _, directions = torch.linalg.svd(flat, full_matrices=False)
    scores = flat @ directions[:3].T
    low, high = scores.quantile(0.02, dim=0), scores.quantile(0.98, dim=0)
    side = round(num_patches**0.5)
    return ((scores - low) / (high - low).clamp_min(1e-6)).clamp(0, 1).view(batch, side, side, 3).numpy()


def draw_slices(path: Path, pixel_values: Tensor, colours: np.ndarray, title: str) -> None:
    """One row of slices (first channel), one row of their patch colours."""
    import matplotlib.pyplot as plt

    count = len(colours)
    figure, axes = plt.subplots(2, count, figsize=(2.2 * count, 4.8), squeeze=False, layout="constrained")
    for column in range(count):
        axes[0, column].imshow(pixel_values[column, 0].float().cpu().numpy(), cmap="gray")
        axes[1, column].imshow(colours[column], interpolation="nearest")
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].set_title("slice", loc="left", fontsize=9)
    axes[1, 0].set_title("patch tokens, first three components", loc="left", fontsize=9)
    figure.suptitle(title, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
