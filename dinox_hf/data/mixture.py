"""Several built sets read as one: laid end to end, and mixed by weight so that the shares hold in every batch."""

from collections.abc import Sequence
from itertools import accumulate
from math import ceil

import numpy as np

from .sampling import SpreadOrder, Windows
from .slices import SliceExample, SliceSet

_ORDER = 1  # first word after the seed; the loader has 2 and 3 for its draws
_PATTERN_WINDOWS = 1000  # the shares of a pattern of windows are exact to one slice


class SliceMixture:
    """The rows of several sets, numbered as if the sets lay end to end.

    Args:
        sets: the sets; one is a mixture too.
        weights: (number of sets,) share of the examples that comes from each, in any unit; None for equal shares.

    Raises:
        ValueError: if a weight is not a number above 0, or there is not one for each set.
    """

    def __init__(self, sets: Sequence[SliceSet], weights: Sequence[float] | None = None) -> None:
        self.sets = tuple(sets)
        self.shares = shares_of(np.ones(len(self.sets)) if weights is None else weights, len(self.sets))
        self._begins = [0, *accumulate(len(part) for part in self.sets)]

    def __len__(self) -> int:
        return self._begins[-1]

    @property
    def fingerprint(self) -> str:
        """The fingerprints of the sets, joined: names the pixels and not the weights."""
        return "+".join(part.fingerprint for part in self.sets)

    def row_in_mixture(self, number: int, row: int) -> int:
        """Where row `row` of set `number` stands in the mixture."""
        return self._begins[number] + row

    def example(self, row: int, num_slices: int = 1, apart_mm: float | None = None) -> SliceExample:
        """A row of the mixture, as `SliceSet.example` gives it."""
        part, row_there = self.locate(row)
        return part.example(row_there, num_slices, apart_mm)._replace(row=int(row))

    def locate(self, row: int) -> tuple[SliceSet, int]:
        """The set that holds a row of the mixture, and the row's number there."""
        number = int(np.searchsorted(self._begins, row, side="right")) - 1
        return self.sets[number], int(row) - self._begins[number]


class MixedOrder:
    """The endless order in which the slices of a mixture are seen: a function of the position alone.

    Every window of `window` positions takes from each set its share, rounded up or down so that the shares hold over
    many windows. Each set keeps its own epochs: however the sets differ in size, no slice of a set comes again before
    all others have been seen.

    Args:
        slices: the sets and their shares.
        window: positions in which no two slices of a series should stand.
        seed: the run's seed.
        z_stride: an epoch takes every n-th slice of a series.
    """

    def __init__(self, slices: SliceMixture, window: int, seed: int, z_stride: int = 1) -> None:
        self._slices, self._window = slices, window
        self._counts = pattern_of(slices.shares * window)
        self._windows = [Windows(sizes) for sizes in self._counts.T]
        self.orders = [
            SpreadOrder(part.series_lengths, windows, (seed, _ORDER, number), z_stride)
            for number, (part, windows) in enumerate(zip(slices.sets, self._windows, strict=True))
        ]

    def row_at(self, position: int) -> int:
        """The row of the mixture at a position."""
        number, place = self.place_at(position)
        return self._slices.row_in_mixture(number, self.orders[number].row_at(place))

    def place_at(self, position: int) -> tuple[int, int]:
        """Which set a position takes from, and its place in the order of that set."""
        window, offset = divmod(position, self._window)
        turns = _turns(self._counts[window % len(self._counts)])
        number = int(turns[offset])
        return number, int(self._windows[number].begin(window)) + int(np.count_nonzero(turns[:offset] == number))


def shares_of(weights: Sequence[float], num_sets: int) -> np.ndarray:
    """(num_sets,) weights as shares that sum to 1; ValueError if they cannot be."""
    weights = np.asarray(weights, dtype=float)
    if len(weights) != num_sets or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            f"Expected one weight > 0 for each of {num_sets} sets; found {weights.tolist()}. "
            f"A weight is a share of the examples: 3 and 1 take three quarters from the first set."
        )
    return weights / weights.sum()


def fits(slices: SliceMixture, window: int, z_stride: int = 1) -> bool:
    """Whether no window of this size needs to hold two slices of a series: the longest series decides."""
    return all(
        _fits(part.series_lengths, window * share, z_stride)
        for part, share in zip(slices.sets, slices.shares, strict=True)
    )


def _fits(series_lengths: np.ndarray, size: float, z_stride: int) -> bool:
    num_rows, size = int(series_lengths.sum()), round(size, 9)
    # Where epochs do not end with a window, each shares its first and its last one with another epoch.
    num_shared = 0 if z_stride == 1 and num_rows % size == 0 else 2
    return ceil(series_lengths.max() / z_stride) <= num_rows / z_stride / size - num_shared


def pattern_of(ideal: np.ndarray) -> np.ndarray:
    """(W, number of sets) whole numbers with the row sum of `ideal`, each its entry rounded up or down.

    The sets that are furthest behind their share are rounded up, so no set is ever a whole slice off for long.
    """
    if len(ideal) == 1:
        return ideal.round().astype(np.int64)[None]
    ideal = ideal.round(9)  # 0.3 * 10 is a hair above 3
    num_up = round(ideal.sum()) - int(np.floor(ideal).sum())
    counts, behind = np.tile(np.floor(ideal).astype(np.int64), (_PATTERN_WINDOWS, 1)), np.zeros(len(ideal))
    for row in counts:
        behind += ideal - row
        up = np.argsort(-behind, kind="stable")[:num_up]
        row[up] += 1
        behind[up] -= 1
    return counts


def _turns(counts: np.ndarray) -> np.ndarray:
    """(sum of counts,) the sets in turn, each spread evenly over the window."""
    when = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(when, kind="stable")]
