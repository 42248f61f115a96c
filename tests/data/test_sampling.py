"""Order of the slices of one set, by hand and over hundreds of random sets."""

import time

import numpy as np
import pytest

from dinox_hf.data.sampling import SpreadOrder, Windows, deal


def series_of(lengths):
    return np.repeat(np.arange(len(lengths)), lengths)


def rows_of(order, first, last):
    return np.array([order.row_at(place) for place in range(first, last)])


def most_of_one_series(rows, lengths, window):
    """The largest number of slices of one series in any window."""
    windows = series_of(lengths)[rows].reshape(-1, window)
    return max(np.bincount(series).max() for series in windows)


def test_windows_repeat_their_pattern_without_end():
    windows = Windows([3, 0, 2])
    assert windows.begin(np.arange(7)).tolist() == [0, 3, 3, 5, 8, 8, 10]
    assert windows.edges(4, 11).tolist() == [4, 5, 8, 10, 11]
    assert [windows.is_edge(place) for place in (0, 3, 4, 5, 8, 9)] == [True, True, False, True, True, False]


def test_an_epoch_holds_every_row_once_and_the_next_has_another_order():
    order = SpreadOrder([20, 18, 12], Windows([2]), seed=(3,))
    epochs = [rows_of(order, 50 * epoch, 50 * epoch + 50).tolist() for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert epochs[0] != epochs[1] != epochs[2]
    other_seed = SpreadOrder([20, 18, 12], Windows([2]), seed=(4,))
    assert epochs[0] != rows_of(other_seed, 0, 50).tolist()


def test_a_place_far_ahead_is_found_without_the_epochs_before_it():
    lengths = [9, 7, 5]
    played = SpreadOrder(lengths, Windows([2]), seed=(1,))
    rows = [played.row_at(place) for place in range(21 * 30)]
    fresh = SpreadOrder(lengths, Windows([2]), seed=(1,))
    assert [fresh.row_at(place) for place in range(21 * 29, 21 * 30)] == rows[21 * 29 :]
    begin = time.process_time()
    SpreadOrder(lengths, Windows([2]), seed=(1,)).row_at(10**12)
    assert time.process_time() - begin < 0.1


def test_no_window_holds_two_slices_of_a_series_wherever_epochs_end():
    draw = np.random.default_rng(0)
    checked = 0
    while checked < 200:
        lengths = draw.integers(1, draw.integers(3, 15), draw.integers(4, 30))
        window = int(draw.integers(2, 12))
        if lengths.max() > lengths.sum() / window - 2:  # two windows may be shared with other epochs
            continue
        order = SpreadOrder(lengths, Windows([window]), seed=(checked,))
        num = 3 * lengths.sum() // window * window
        assert most_of_one_series(rows_of(order, 0, num), lengths, window) == 1, (lengths, window)
        checked += 1


def test_skewed_series_are_spread_too():
    # The longest series takes part in every second window, the shortest in one of an epoch.
    lengths = [60, 40, 40, 30, 20, 20, 10, 10, 5, 5, 1, 1, 1]
    order = SpreadOrder(lengths, Windows([2]), seed=(0,))
    rows = rows_of(order, 0, 4 * sum(lengths) // 2 * 2)
    assert most_of_one_series(rows, lengths, 2) == 1


@pytest.mark.parametrize(
    ("lengths", "window", "most"),
    [
        ([12, 12], 4, 2),  # fewer series than slices in a window
        ([30, 3, 3], 4, 4),  # one series is five sixths of the set: 30 slices in 9 windows
        ([11, 11, 11], 4, 2),  # 33 slices: epochs end within windows
    ],
)
def test_where_series_are_too_few_or_too_long_every_window_gets_the_same_number_of_each(lengths, window, most):
    order = SpreadOrder(lengths, Windows([window]), seed=(5,))
    num = window * (5 * sum(lengths) // window)
    assert most_of_one_series(rows_of(order, 0, num), lengths, window) == most


def test_dealing_differs_by_one_at_most_whatever_the_sizes():
    draw = np.random.default_rng(1)
    for _ in range(200):
        sizes = np.full(draw.integers(2, 20), draw.integers(1, 8))
        sizes[: draw.integers(len(sizes))] += 1
        split = np.sort(draw.integers(0, sizes.sum() + 1, draw.integers(1, 9)))
        lengths = np.diff([0, *split, sizes.sum()])
        dealt = np.split(deal(draw, lengths, sizes), np.cumsum(sizes)[:-1])
        counts = np.array([np.bincount(series, minlength=len(lengths)) for series in dealt])
        assert counts.sum(axis=0).tolist() == lengths.tolist()
        assert (np.ceil(lengths / len(sizes)) >= counts.max(axis=0) - (sizes.min() != sizes.max())).all()
        is_short = lengths <= len(sizes)
        assert (counts[:, is_short] <= 1).all()


def test_every_pair_of_series_meets_about_as_often_as_chance_would_have_it():
    lengths, window = np.full(12, 10), 4
    together = np.zeros((12, 12))
    for seed in range(200):
        order = SpreadOrder(lengths, Windows([window]), seed=(seed,))
        for series in series_of(lengths)[rows_of(order, 0, 120)].reshape(-1, window):
            together[np.ix_(series, series)] += 1
    pairs = together[np.triu_indices(12, 1)] / 200
    # 30 windows with 6 pairs each, shared by 66 pairs: 2.73 meetings. Single epochs vary by about 2.
    np.testing.assert_allclose(pairs, 30 * 6 / 66, atol=0.6)


def test_a_stride_takes_every_nth_slice_and_in_n_epochs_each_once():
    lengths = [10, 7, 8, 2]
    order = SpreadOrder(lengths, Windows([2]), seed=(2,), z_stride=3)
    slice_index = np.concatenate([np.arange(length) for length in lengths])
    cycle = [rows_of(order, places.start, places.stop) for places in map(order.places, range(3))]
    assert sorted(np.concatenate(cycle)) == list(range(27))
    for rows in cycle:
        for series in range(4):
            indices = np.sort(slice_index[rows[series_of(lengths)[rows] == series]])
            assert (np.diff(indices) == 3).all()
    assert sorted(rows_of(order, 27, 54)) == list(range(27))
    assert order.places(3) == range(27, 27 + len(cycle[0]))


def test_a_stride_longer_than_every_series_leaves_epochs_empty_and_loses_nothing():
    order = SpreadOrder([2, 1], Windows([2]), seed=(0,), z_stride=7)
    assert sorted(rows_of(order, 0, 3)) == sorted(rows_of(order, 3, 6)) == [0, 1, 2]


def test_strides_keep_series_apart():
    lengths = [30] * 12
    order = SpreadOrder(lengths, Windows([8]), seed=(0,), z_stride=4)
    assert most_of_one_series(rows_of(order, 0, 360 * 4), lengths, 8) == 1


@pytest.mark.parametrize("window", [8, 256, 1024])
def test_an_epoch_of_a_quarter_million_rows_is_dealt_in_well_under_a_second(window):
    lengths = np.random.default_rng(0).integers(120, 360, 1018)
    order = SpreadOrder(lengths, Windows([window]), seed=(0,))
    begin = time.process_time()
    order.row_at(5 * order.num_rows)
    assert time.process_time() - begin < 0.5  # measured 0.07 s


def test_the_epochs_of_a_stride_are_about_equally_long():
    order = SpreadOrder([10] * 6, Windows([2]), seed=(0,), z_stride=3)
    assert [len(order.places(epoch)) for epoch in range(3)] == [20, 20, 20]
