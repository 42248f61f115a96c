"""Endless batches of crops for pretraining: the same ones whatever the workers, and from whichever step one starts.

Every example has a position in an endless order, and every draw about it comes from (seed, position). So a batch is a
pure function of its step: workers only decide who computes it, and to resume at step k is to start counting at k.
"""

import itertools
import signal
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from .crops import NUM_GLOBAL_CROPS, Crops, CropsConfig, MultiCrop
from .intensity.ct import IntensityConfig
from .masking import MaskingConfig, batch_masks
from .slices import SliceSet

# First word after the seed: NumPy pads seeds with zeros, so without it [seed, 5] and [seed, 5, 0, 0] would be one.
_ORDER, _EXAMPLE, _MASKS = 1, 2, 3


@dataclass(frozen=True)
class PretrainBatch:
    """One micro-batch of one process. Crops are crop-major: crop 0 of all B slices, then crop 1, and so on."""

    global_crops: Tensor  # (2B, 3, S, S) float32, normalised
    local_crops: Tensor  # (L*B, 3, s, s) float32
    gram_crops: Tensor | None  # (2B, 3, G, G) float32: the global crops undistorted
    masks: Tensor  # (2B, N) bool: patches of the global crops that the student does not see
    rows: Tensor  # (B,) int64: where the slices stand in their set

    def to(self, device: torch.device | str) -> "PretrainBatch":
        """The batch on a device; copies from pinned memory do not make the host wait."""
        return self._apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "PretrainBatch":
        """The batch in page-locked memory; `DataLoader` calls this where there is an accelerator."""
        return self._apply(Tensor.pin_memory)

    def _apply(self, function) -> "PretrainBatch":
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: function(t) for name, t in tensors.items() if t is not None})


class PretrainLoader:
    """Cuts crops from a `SliceSet`, step by step, for one process of `world_size`.

    Args:
        slices: the set.
        crops: sizes and distortions of crops.
        intensity: windows and their jitter.
        masking: how much of the global crops is hidden from the student.
        patch_size: side of a patch in pixels; sizes of crops are multiples of it.
        batch_size: slices in one micro-batch of one process.
        accumulate: micro-batches of one step.
        seed: the run's seed.
        rank: which process this is.
        world_size: number of processes; together they read each slice once in an epoch.
        num_workers: processes that cut crops; 0 cuts them here. It changes no number.

    Raises:
        ValueError: if a crop size is not a multiple of the patch size.
    """

    def __init__(
        self,
        slices: SliceSet,
        crops: CropsConfig,
        intensity: IntensityConfig,
        masking: MaskingConfig,
        patch_size: int,
        batch_size: int,
        accumulate: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        _check_multiples(crops, patch_size)
        self.batch_size, self.accumulate, self.num_workers = batch_size, accumulate, num_workers
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.slices = slices
        self._has_neighbours = intensity.channels == "neighbours"
        self._multi_crop = MultiCrop(crops, intensity)
        self._masking = masking
        self._grid = (crops.global_size // patch_size,) * 2

    @property
    def images_per_step(self) -> int:
        """Slices in one update, over all processes and micro-batches."""
        return self.batch_size * self.accumulate * self.world_size

    def steps(self, start_step: int = 0) -> Iterator[list[PretrainBatch]]:
        """Endless steps from `start_step` on, each a list of exactly `accumulate` micro-batches."""
        micro_batches = DataLoader(
            self,
            sampler=itertools.count(start_step * self.accumulate),
            batch_size=None,
            num_workers=self.num_workers,
            worker_init_fn=_leave_signals_to_the_run,
            pin_memory=torch.cuda.is_available(),
            # DataLoader draws a seed for its workers; from a generator of its own, the run's draws are left alone.
            generator=torch.Generator(),
        )
        return _grouped(iter(micro_batches), self.accumulate)

    def __getitem__(self, index: int) -> PretrainBatch:
        """Micro-batch `index` of this process, counted from step 0; whichever worker asks, it is the same."""
        first = (index * self.world_size + self.rank) * self.batch_size
        positions = range(first, first + self.batch_size)
        rows = [row_at(position, len(self.slices), self.seed) for position in positions]
        examples = [self._example(row, position) for row, position in zip(rows, positions, strict=True)]
        return PretrainBatch(
            global_crops=_crop_major([example.global_crops for example in examples]),
            local_crops=_crop_major([example.local_crops for example in examples]),
            gram_crops=_crop_major([example.gram_crops for example in examples]),
            masks=self._masks(*divmod(index, self.accumulate)),
            rows=torch.tensor(rows),
        )

    def _example(self, row: int, position: int) -> Crops:
        slices_hu = self.slices.neighbours(row) if self._has_neighbours else self.slices.pixels(row)[None]
        spacing_yx_mm = self.slices.spacing_mm(row)[1:]
        rng = np.random.default_rng([self.seed, _EXAMPLE, position])
        return self._multi_crop(slices_hu, spacing_yx_mm, self.slices.padding_hu(row), rng)

    def _masks(self, step: int, micro: int) -> Tensor:
        rng = np.random.default_rng([self.seed, _MASKS, step, micro, self.rank])
        num_crops = NUM_GLOBAL_CROPS * self.batch_size
        return torch.from_numpy(
            batch_masks(rng, num_crops, self._grid, self._masking.probability, self._masking.ratio)
        )


def row_at(position: int, num_rows: int, seed: int) -> int:
    """The slice at a position of the endless order: epoch after epoch, each a fresh permutation of all rows."""
    epoch, place = divmod(position, num_rows)
    return int(_epoch_order(epoch, num_rows, seed)[place])


@lru_cache(maxsize=2)
def _epoch_order(epoch: int, num_rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(num_rows)


def _crop_major(crops: list[np.ndarray | None]) -> Tensor | None:
    """B arrays (crops, 3, S, S) of one slice each -> (crops * B, 3, S, S), the first crop of all slices first."""
    if crops[0] is None:
        return None
    return torch.from_numpy(np.stack(crops, axis=1)).flatten(0, 1)


def _leave_signals_to_the_run(_worker: int) -> None:
    """Ctrl-C and SIGTERM reach workers too; they go on, so that the run can finish its step and save.

    Only the first SIGTERM is let pass: at the end of a crashed run DataLoader and multiprocessing send one each.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: signal.signal(number, signal.SIG_DFL))


def _grouped(micro_batches: Iterator[PretrainBatch], accumulate: int) -> Iterator[list[PretrainBatch]]:
    while True:
        yield list(itertools.islice(micro_batches, accumulate))


def _check_multiples(crops: CropsConfig, patch_size: int) -> None:
    for name in ("global_size", "local_size", "gram_size"):
        size = getattr(crops, name)
        if size is not None and size % patch_size:
            nearest = max(1, round(size / patch_size)) * patch_size
            raise ValueError(
                f"crops.{name} must be a multiple of the patch size {patch_size}; found {size}. "
                f"Take {nearest}, the nearest."
            )
