"""In which order the slices of a set are seen: every one once, and no two of a series in one batch.

Places count on endlessly, epoch after epoch, and are cut into windows: the slices that one batch takes from this set.
Each epoch deals its slices to its windows anew, and its order depends on nothing but (seed, epoch): where a run stands
is a number, and no earlier epoch has to be played again.
"""

import numpy as np

_EPOCH, _LAST_WINDOW = 1, 2  # which draw, so that no two share a stream
_EPOCHS_KEPT = 2  # a batch may lie across the end of one


class Windows:
    """Where windows of places begin, as a pattern of sizes that repeats without end.

    Args:
        sizes: places in each window of the pattern; 0 for a window that takes none.
    """

    def __init__(self, sizes: list[int] | np.ndarray) -> None:
        self._begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    @property
    def mean_size(self) -> float:
        """Places in a window, on average."""
        return float(self._begins[-1] / (len(self._begins) - 1))

    def begin(self, window: int | np.ndarray) -> int | np.ndarray:
        """First place of a window."""
        cycle, rest = np.divmod(window, len(self._begins) - 1)
        return cycle * self._begins[-1] + self._begins[rest]

    def edges(self, first: int, last: int) -> np.ndarray:
        """`first`, each place between at which a window begins, and `last`."""
        candidates = np.arange(self._window_at(first), self._window_at(last) + 2)
        begins = self.begin(candidates)
        return np.unique(np.concatenate([[first], begins[(begins > first) & (begins < last)], [last]]))

    def is_edge(self, place: int) -> bool:
        """Whether a window begins at this place."""
        return bool(place % self._begins[-1] in self._begins)

    def _window_at(self, place: int) -> int:
        cycle, rest = divmod(place, int(self._begins[-1]))
        return cycle * (len(self._begins) - 1) + int(np.searchsorted(self._begins, rest, side="right")) - 1


class SpreadOrder:
    """The endless order of one set's rows, with the slices of a series as far from each other as windows ask.

    No window holds two slices of a series if the longest series has at most as many slices as the epoch has windows,
    less one for each end of the epoch that lies within a window. Where that cannot be, every window holds about the
    same number of each series.

    Args:
        series_lengths: (S,) slices of each series, in the order of the rows.
        windows: which places one batch takes.
        seed: words that seed the draws.
        z_stride: an epoch takes every n-th slice of a series. The next one begins a slice further on, so that n epochs
            take each slice once.
    """

    def __init__(self, series_lengths: np.ndarray, windows: Windows, seed: tuple[int, ...], z_stride: int = 1) -> None:
        lengths = np.asarray(series_lengths)
        self.num_series, self.num_rows, self.z_stride = len(lengths), int(lengths.sum()), z_stride
        self._windows, self._seed = windows, seed
        self._series = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        slice_index = np.arange(self.num_rows) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # Neighbouring series begin at different slices, or the epochs of a cycle would differ in length.
        self._phase = ((slice_index + self._series) % z_stride).astype(np.int32)
        sizes = np.bincount(self._phase, minlength=z_stride)
        self._epoch_begins = np.concatenate([[0], np.cumsum(sizes)])  # within a cycle of z_stride epochs
        self._built: dict[int, np.ndarray] = {}

    def row_at(self, place: int) -> int:
        """The row that stands at a place."""
        cycle, rest = divmod(place, self.num_rows)
        phase = int(np.searchsorted(self._epoch_begins, rest, side="right")) - 1
        return int(self._rows(cycle * self.z_stride + phase)[rest - self._epoch_begins[phase]])

    def places(self, epoch: int) -> range:
        """The places of an epoch."""
        cycle, phase = divmod(epoch, self.z_stride)
        begin, end = (cycle * self.num_rows + int(edge) for edge in self._epoch_begins[phase : phase + 2])
        return range(begin, end)

    def _rows(self, epoch: int) -> np.ndarray:
        if epoch not in self._built:
            while len(self._built) >= _EPOCHS_KEPT:
                del self._built[next(iter(self._built))]
            self._built[epoch] = self._build(epoch)
        return self._built[epoch]

    def _build(self, epoch: int) -> np.ndarray:
        """(places of the epoch,) rows."""
        rng = np.random.default_rng([*self._seed, _EPOCH, epoch])
        rows = rng.permutation(np.flatnonzero(self._phase == epoch % self.z_stride))
        # Which series stands at a place is dealt first; then each series hands out its rows in random order.
        series = self._deal_epoch(epoch, rng)
        ordered = np.empty(len(rows), dtype=np.int64)
        ordered[np.argsort(series, kind="stable")] = rows[np.argsort(self._series[rows], kind="stable")]
        return ordered

    def _deal_epoch(self, epoch: int, rng: np.random.Generator) -> np.ndarray:
        """(places of the epoch,) number of the series."""
        first_size, inner_sizes, _ = self._sizes(epoch)
        lengths, last = self._lengths(epoch), self._last_window(epoch)
        # The window in which the epoch before ended goes on here; no series should come twice in it.
        avoided = self._last_window(epoch - 1) if first_size else np.zeros_like(lengths)
        first = _choose(rng, lengths - last, first_size, most=len(inner_sizes), avoided=avoided)
        inner = deal(rng, lengths - last - first, inner_sizes)
        return np.concatenate([_shuffled(rng, first), inner, _shuffled(rng, last)])

    def _last_window(self, epoch: int) -> np.ndarray:
        """(S,) slices of each series in the window that this epoch does not fill: drawn by itself, before the rest."""
        first_size, inner_sizes, size = self._sizes(epoch)
        rng = np.random.default_rng([*self._seed, _LAST_WINDOW, epoch])
        lengths = self._lengths(epoch)
        return _choose(rng, lengths, size, most=len(inner_sizes) + (first_size > 0), avoided=np.zeros_like(lengths))

    def _sizes(self, epoch: int) -> tuple[int, np.ndarray, int]:
        """Places in the window that the epoch before began, in each whole window, and in the one that is left open."""
        places = self.places(epoch)
        sizes = np.diff(self._windows.edges(places.start, places.stop)) if places else np.zeros(0, dtype=np.int64)
        has_last = len(sizes) > 0 and not self._windows.is_edge(places.stop)
        last_size, sizes = (int(sizes[-1]), sizes[:-1]) if has_last else (0, sizes)
        has_first = len(sizes) > 0 and not self._windows.is_edge(places.start)
        first_size, sizes = (int(sizes[0]), sizes[1:]) if has_first else (0, sizes)
        return first_size, sizes, last_size

    def _lengths(self, epoch: int) -> np.ndarray:
        """(S,) slices of each series that the epoch takes."""
        return np.bincount(self._series[self._phase == epoch % self.z_stride], minlength=self.num_series)


def deal(rng: np.random.Generator, lengths: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Deal slices to windows so that no window gets two of a series, or else all get the same number give or take one.

    The series are laid out one after another in random order and dealt in rounds, one slice for each window that has
    room, the windows in random order. Only the series that is cut by the end of a round could come to a window twice:
    in the next round it goes to the windows that have none of it yet.

    Args:
        rng: source of all draws.
        lengths: (S,) slices of each series.
        sizes: (W,) room of each window; together as much as there are slices.

    Returns:
        (sum of sizes,) number of the series at each place, window after window.
    """
    order = rng.permutation(len(lengths))
    series = np.repeat(order, lengths[order])
    window = np.empty(len(series), dtype=np.int64)
    held = np.zeros(len(sizes))  # slices that each window has of the series with which the last round ended
    begin = 0
    for room in range(int(sizes.max(initial=0)), 0, -1):  # the short rounds first: only the larger windows take part
        open_windows = np.flatnonzero(sizes >= room)
        dealt = series[begin : begin + len(open_windows)]
        num_cut = np.count_nonzero(dealt == series[begin - 1]) if begin else 0
        turn = open_windows[np.argsort(held[open_windows] + rng.random(len(open_windows)))]
        rng.shuffle(turn[num_cut:])
        if num_cut < len(dealt):
            held[:] = 0
        held[turn[dealt == dealt[-1]]] += 1
        window[begin : begin + len(dealt)] = turn
        begin += len(dealt)
    return series[np.argsort(window + rng.random(len(series)))]


def _choose(rng: np.random.Generator, lengths: np.ndarray, num: int, most: int, avoided: np.ndarray) -> np.ndarray:
    """Slices of each series in a window of `num`: long series more likely, none twice as long as there are others.

    Args:
        rng: source of all draws.
        lengths: (S,) slices of each series that are left.
        num: slices to choose.
        most: windows that come after; a longer series has to be chosen now.
        avoided: (S,) more than 0 for a series that should not be chosen.
    """
    chosen = np.zeros_like(lengths)
    while num > 0:
        left = lengths - chosen
        # The largest of log(weight) + Gumbel noise are a weighted draw without replacement.
        score = np.log(np.maximum(left, 1)) + rng.gumbel(size=len(left)) + 1e3 * (left > most) - 1e6 * (avoided > 0)
        score[left == 0] = -np.inf
        taken = np.argsort(-score)[: min(num, np.count_nonzero(left))]
        chosen[taken] += 1
        num -= len(taken)
    return chosen


def _shuffled(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    return rng.permutation(np.repeat(np.arange(len(counts)), counts))
