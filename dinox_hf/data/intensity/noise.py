"""White noise that is a function of a seed and of nothing else: the same from the loader and from an accelerator."""

import math

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) numbers its draws, so that all of them can be made at once.
_STEP, _FIRST, _SECOND = (
    constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # as signed numbers: torch's products of int64 wrap around like unsigned ones


def white_noise(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Normally distributed numbers with standard deviation 1, one image for each seed.

    A CPU and an accelerator draw the same uniform numbers; logarithm and cosine may differ in the last digit.

    Args:
        seeds: (N,) int64.
        shape: of one image.

    Returns:
        (N, *shape) float32 on the seeds' device.
    """
    counter = torch.arange(1, math.prod(shape) + 1, device=seeds.device)
    bits = _mixed(seeds[:, None] + counter * _STEP)
    # Box and Muller: 24 bits make the radius, 24 others the angle.
    radius = (-2 * torch.log(((bits >> 40 & 0xFFFFFF) + 1) / 2**24)).sqrt()
    angle = (bits & 0xFFFFFF) * (2 * math.pi / 2**24)
    return (radius * torch.cos(angle)).view(len(seeds), *shape)


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, places: int) -> Tensor:
    """To the right with zeros from the left; torch would repeat the sign."""
    return bits >> places & (1 << 64 - places) - 1
