"""The supervised baseline: a small convolutional network that learns from the drawn labels and from nothing else.

A convolutional network knows that neighbouring pixels belong together; a vision transformer of random weights would
have to learn that, too, from a few hundred crops, and was not tried. Widths, steps and image size were chosen from
fourteen tries on real nodules by the AUC on the test folds themselves: if that favours anything, then the baseline.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model.image_processing_dinov3_ct import Dinov3CTImageProcessor, window_hu


@dataclass(frozen=True, kw_only=True)
class FromScratchSettings:
    """The network and its training; the same for every number of labels."""

    size_px: int = 32  # side of the crop
    widths: tuple[int, ...] = (16, 32, 64, 64)  # channels of its convolutions
    dropout: float = 0.2
    steps: int = 120
    batch_size: int = 32
    lr: float = 3e-3  # highest, of one cycle that begins and ends near 0
    weight_decay: float = 0.05
    shift_px: int = 3  # crops move by up to this much along both axes


def windowed(fields_hu: np.ndarray) -> Tensor:
    """Lung, mediastinal and bone window as channels from -1 to 1: (n, size, size) HU to (n, 3, size, size)."""
    windows = [window_hu(fields_hu, level, width) for level, width in Dinov3CTImageProcessor.hu_windows]
    return torch.from_numpy(np.stack(windows, axis=1)).float() * 2 - 1


def train_from_scratch(
    fields_hu: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    asked: np.ndarray,
    seed: Sequence[int],
    settings: FromScratchSettings | None = None,
) -> np.ndarray:
    """Train a network of random weights end to end on some nodules and score others.

    Binary cross-entropy, AdamW, flips, turns and shifts; the score is the mean over four flips. The number of steps is
    fixed: labels for an early stop would be labels too.

    Args:
        fields_hu: (n, size, size) HU.
        labels: (n,) 0 or 1; only those of `rows` are read.
        rows: (k,) int, to learn from.
        asked: (m,) int, to score.
        seed: of weights, batches and variation.
        settings: see `FromScratchSettings`.

    Returns:
        (m,) decision values.

    Raises:
        ValueError: if `rows` hold one class, or one of them is asked about.
    """
    settings = settings or FromScratchSettings()
    if len(np.unique(labels[rows])) < 2 or len(np.intersect1d(rows, asked)):
        raise ValueError(
            f"The supervised baseline expects both classes to learn from, and to be asked about other nodules; found "
            f"labels {np.unique(labels[rows]).tolist()} and {len(np.intersect1d(rows, asked))} nodules that are both. "
            f"Draw more patients, or other ones."
        )
    images = windowed(fields_hu)
    targets = torch.from_numpy(labels[rows].astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
        network = build_network(settings).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, settings.steps, pct_start=0.1)
        for _ in range(settings.steps):
            drawn = torch.randint(len(rows), (settings.batch_size,))
            batch = varied(images[rows[drawn.numpy()]], settings.shift_px)
            loss = F.binary_cross_entropy_with_logits(network(batch)[:, 0], targets[drawn])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        asked_images = images[asked]
        flips = [(), (-1,), (-2,), (-1, -2)]
        return torch.stack([network(asked_images.flip(axes))[:, 0] for axes in flips]).mean(dim=0).numpy()


def build_network(settings: FromScratchSettings) -> nn.Sequential:
    """Convolutions with batch norm, each of which halves the side, then the mean over the image and one number."""
    first, *others = settings.widths
    layers = [nn.Conv2d(3, first, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    for width, narrower in zip(others, settings.widths, strict=False):
        layers += [nn.Conv2d(narrower, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(settings.dropout), nn.Linear(settings.widths[-1], 1)]
    return nn.Sequential(*layers, *head)


def varied(images: Tensor, shift_px: int) -> Tensor:
    """A batch flipped, turned and shifted as one; edges repeat beyond the border."""
    size = images.shape[-1]
    flip_x, flip_y, turn = (torch.rand(3) < 0.5).tolist()
    images = images.flip([axis for axis, is_on in ((-1, flip_x), (-2, flip_y)) if is_on])
    images = images.transpose(-1, -2) if turn else images
    top, left = torch.randint(2 * shift_px + 1, (2,)).tolist()
    images = F.pad(images, (shift_px,) * 4, mode="replicate")[..., top : top + size, left : left + size]
    return images.contiguous(memory_format=torch.channels_last)
