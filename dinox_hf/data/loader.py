"""Endless batches of crops for pretraining: the same ones whatever the workers, and from whichever step one starts.

Every example has a position in an endless order, and every draw about it comes from (seed, position). So a batch is a
pure function of its step: workers only decide who computes it, and to resume at step k is to start counting at k.
"""

import itertools
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .batches import Batch, cut_batch, stack_batch
from .crops import NUM_GLOBAL_CROPS, ExampleDraws, MultiCrop
from .crops_config import CropsConfig
from .intensity.ct import IntensityConfig
from .masking import MaskingConfig, batch_masks
from .mixture import MixedOrder, SliceMixture, fits
from .slices import SliceExample, SliceSet

# First word after the seed: NumPy pads seeds with zeros, so without it [seed, 5] and [seed, 5, 0, 0] would be one.
_EXAMPLE, _MASKS, _SIZES = 2, 3, 4  # the order of a mixture has 1


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """What becomes of a slice, and which slices are whose; the same for built and for streamed sets.

    Attributes:
        crops: sizes and distortions of crops.
        intensity: windows and their jitter.
        masking: how much of the global crops is hidden from the student.
        patch_size: side of a patch in pixels; sizes of crops are multiples of it.
        batch_size: slices in one micro-batch of one process.
        accumulate: micro-batches of one step.
        seed: the run's seed.
        rank: which process this is.
        world_size: number of processes; together they read each slice once in an epoch.
        num_workers: processes that cut crops; 0 cuts them here.
        z_stride: an epoch takes every n-th slice of a series, the next one those a slice further on.
        neighbour_mm: distance of the neighbours where `intensity.channels` asks for them; None for adjacent slices.
        pin_memory: batches in page-locked memory, where there is an accelerator. It changes no number.

    Raises:
        ValueError: if a crop size is not a multiple of the patch size.
    """

    crops: CropsConfig
    intensity: IntensityConfig
    masking: MaskingConfig
    patch_size: int
    batch_size: int
    accumulate: int
    seed: int
    rank: int = 0
    world_size: int = 1
    num_workers: int = 0
    z_stride: int = 1
    neighbour_mm: float | None = None
    pin_memory: bool = True

    def __post_init__(self) -> None:
        for variant in self.crops.variants:
            _check_multiples(variant, self.patch_size)

    @property
    def images_per_step(self) -> int:
        """Slices in one update, over all processes and micro-batches."""
        return self.batch_size * self.accumulate * self.world_size

    @property
    def slices_per_example(self) -> int:
        """1, or 3 for a slice between its neighbours."""
        return 3 if self.intensity.channels == "neighbours" else 1


class CropLoader:
    """What both loaders share: examples of one micro-batch become its crops and masks."""

    def __init__(self, settings: LoaderSettings) -> None:
        self.settings = settings
        self._multi_crops = [MultiCrop(variant, settings.intensity) for variant in settings.crops.variants]
        weights = np.array([of.weight for of in settings.crops.sizes] or [1.0])
        self._shares = weights / weights.sum()

    def positions(self, index: int) -> range:
        """Positions of this process's micro-batch `index`, counted from step 0, in the order of all processes."""
        first = (index * self.settings.world_size + self.settings.rank) * self.settings.batch_size
        return range(first, first + self.settings.batch_size)

    def _batches(self, dataset: Dataset, sampler: Iterable[int] | None = None) -> Iterator[list[Batch]]:
        """Endless steps from a data set of micro-batches, each a list of exactly `accumulate`."""
        micro_batches = DataLoader(
            dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.settings.num_workers,
            worker_init_fn=_leave_signals_to_the_run,
            pin_memory=self.settings.pin_memory and torch.cuda.is_available(),
            # DataLoader draws a seed for its workers; from a generator of its own, the run's draws are left alone.
            generator=torch.Generator(),
        )
        return _grouped(iter(micro_batches), self.settings.accumulate)

    def _collate(self, index: int, examples: list[SliceExample]) -> Batch:
        """Micro-batch `index` from its slices; every draw comes from the seed and the position."""
        step, micro = divmod(index, self.settings.accumulate)
        cutter = self._cutter(step)
        pairs = zip(examples, self.positions(index), strict=True)
        draws = [self._draw(cutter, example, position) for example, position in pairs]
        masks = self._masks(cutter, step, micro)
        make = cut_batch if cutter.crops.cut_on == "loader" else stack_batch
        return make(cutter, examples, draws, masks)

    def _cutter(self, step: int) -> MultiCrop:
        """The crops of a step, of one size for all processes and micro-batches, so that none waits for another."""
        rng = np.random.default_rng([self.settings.seed, _SIZES, step])
        return self._multi_crops[rng.choice(len(self._multi_crops), p=self._shares)]

    def _draw(self, cutter: MultiCrop, example: SliceExample, position: int) -> ExampleDraws:
        rng = np.random.default_rng([self.settings.seed, _EXAMPLE, position])
        return cutter.draw(example.slices_hu, example.spacing_yx_mm, example.padding_hu, rng)

    def _masks(self, cutter: MultiCrop, step: int, micro: int) -> Tensor:
        rng = np.random.default_rng([self.settings.seed, _MASKS, step, micro, self.settings.rank])
        grid = (cutter.crops.global_size // self.settings.patch_size,) * 2
        num_crops = NUM_GLOBAL_CROPS * self.settings.batch_size
        return torch.from_numpy(
            batch_masks(rng, num_crops, grid, self.settings.masking.probability, self.settings.masking.ratio)
        )


class PretrainLoader(CropLoader):
    """Cuts crops from built sets, step by step, for one process of `world_size`.

    No step holds two slices of a series. Where a series is too long or the series are too few for that, no micro-batch
    does, or else every micro-batch holds about the same number of each series; `spread_note` says so.

    Args:
        slices: the set, or several in a mixture.
        settings: which slices become which crops; the number of workers changes no number.
    """

    def __init__(self, slices: SliceSet | SliceMixture, settings: LoaderSettings) -> None:
        super().__init__(settings)
        self.slices = slices if isinstance(slices, SliceMixture) else SliceMixture([slices])
        window = self._window()
        self.order = MixedOrder(self.slices, window, settings.seed, settings.z_stride)
        self.spread_note = self._note(window)

    def steps(self, start_step: int = 0) -> Iterator[list[Batch]]:
        """Endless steps from `start_step` on, each a list of exactly `accumulate` micro-batches."""
        return self._batches(self, itertools.count(start_step * self.settings.accumulate))

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index` of this process, counted from step 0; whichever worker asks, it is the same."""
        rows = [self.order.row_at(position) for position in self.positions(index)]
        return self._collate(index, [self._example(row) for row in rows])

    @property
    def fingerprint(self) -> str:
        """Names the slices: equal wherever the same sets lie."""
        return self.slices.fingerprint

    @property
    def num_slices(self) -> int:
        """Slices in all sets."""
        return len(self.slices)

    @property
    def source(self) -> str:
        """Where the slices come from, for people."""
        return ", ".join(str(part.folder) for part in self.slices.sets)

    def examples(self, num: int) -> list[SliceExample]:
        """A few slices from all over the sets, the same ones every time: for pictures."""
        rows = np.linspace(0, len(self.slices) - 1, num + 2).round().astype(int)[1:-1]
        return [self._example(row) for row in rows]

    def _example(self, row: int) -> SliceExample:
        return self.slices.example(row, self.settings.slices_per_example, self.settings.neighbour_mm)

    def _window(self) -> int:
        """Slices among which none should share its series: of a step, else of what runs at once, else of a process."""
        how = self.settings
        sizes = (how.images_per_step, how.batch_size * how.world_size, how.batch_size)
        return next((size for size in sizes if fits(self.slices, size, how.z_stride)), sizes[1])

    def _note(self, window: int) -> str | None:
        """What could not be had, for the user; None if no step holds two slices of a series."""
        if window == self.settings.images_per_step and fits(self.slices, window, self.settings.z_stride):
            return None
        num_series = sum(part.num_series for part in self.slices.sets)
        longest = max(int(part.series_lengths.max()) for part in self.slices.sets)
        found = f"{num_series} series, the longest of {longest} of {len(self.slices)} slices"
        if fits(self.slices, window, self.settings.z_stride):
            step = f"A step of {self.settings.images_per_step} slices holds several of a series"
            return f"{step}, each {window} of them at most one: {found}."
        return (
            f"A batch of {window} slices holds several of a series, spread as evenly as can be: {found}. "
            f"For one at most, train on more series or lower batch.size."
        )


def _leave_signals_to_the_run(_worker: int) -> None:
    """Ctrl-C and SIGTERM reach workers too; they go on, so that the run can finish its step and save.

    Only the first SIGTERM is let pass: at the end of a crashed run DataLoader and multiprocessing send one each.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: signal.signal(number, signal.SIG_DFL))


def _grouped(micro_batches: Iterator[Batch], accumulate: int) -> Iterator[list[Batch]]:
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
