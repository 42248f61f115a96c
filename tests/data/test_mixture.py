"""Shares of several sets in every stretch of the order, and rows that are found again in their set."""

import itertools

import numpy as np
import pytest

from dinox_hf.data.mixture import MixedOrder, SliceMixture, fits
from dinox_hf.data.slices import SliceSet
from tests.data.built_set import noisy_series, series_rows, write_built_set


def built(folder, num_series, num_slices, seed):
    series = [noisy_series(seed + number, (num_slices, 4, 4)) for number in range(num_series)]
    rows = [series_rows(voxels, f"p{seed + number}") for number, voxels in enumerate(series)]
    return SliceSet(write_built_set(folder, {"train-00000-of-00001": list(itertools.chain(*rows))}))


@pytest.fixture
def sets(tmp_path):
    return [
        built(tmp_path / "a", 12, 5, seed=10),
        built(tmp_path / "b", 8, 4, seed=50),
        built(tmp_path / "c", 6, 6, 90),
    ]


def sets_at(order, num):
    return np.array([order.place_at(position)[0] for position in range(num)])


@pytest.mark.parametrize("weights", [(3, 1, 4), (0.9, 0.07, 0.03), (1, 1, 1)])
@pytest.mark.parametrize("window", [4, 7])
def test_the_shares_hold_in_every_stretch(sets, weights, window):
    mixture = SliceMixture(sets, weights)
    taken = sets_at(MixedOrder(mixture, window, seed=0), 200 * window)
    for number, share in enumerate(mixture.shares):
        ahead = np.cumsum(taken == number) - share * np.arange(1, len(taken) + 1)
        assert np.ptp(ahead) < 3, "a stretch has three slices more or fewer than its share"
        per_window = (taken == number).reshape(-1, window).sum(axis=1)
        assert set(per_window) <= {np.floor(round(share * window, 9)), np.ceil(round(share * window, 9))}


def test_places_of_a_set_follow_one_another_without_gaps(sets):
    order = MixedOrder(SliceMixture(sets, (3, 1, 4)), 6, seed=0)
    found = [order.place_at(position) for position in range(600)]
    for number in range(3):
        places = [place for part, place in found if part == number]
        assert places == list(range(len(places)))


def test_each_set_keeps_its_own_epochs(sets):
    mixture = SliceMixture(sets, (3, 1, 4))
    order = MixedOrder(mixture, 8, seed=0)
    rows = [order.row_at(position) for position in range(400)]
    begin = 0
    for part in sets:
        own = [row - begin for row in rows if begin <= row < begin + len(part)]
        assert sorted(own[: len(part)]) == list(range(len(part)))
        begin += len(part)


def test_no_window_holds_two_slices_of_a_series_of_any_set(sets):
    mixture = SliceMixture(sets, (5, 2, 1))
    assert fits(mixture, 7)
    order = MixedOrder(mixture, 7, seed=0)
    for window in range(200):
        places = [mixture.locate(order.row_at(7 * window + offset)) for offset in range(7)]
        assert len({part.series_id(row) for part, row in places}) == 7


def test_a_window_fits_where_the_longest_series_has_a_window_for_each_of_its_slices(sets):
    twelve_by_five = SliceMixture(sets[:1])
    assert fits(twelve_by_five, 12)  # 5 windows, and epochs end with them
    assert not fits(twelve_by_five, 13)  # fewer series than that
    assert not fits(twelve_by_five, 11) and fits(twelve_by_five, 8)  # 5.5 and 7.5 windows, two of them shared
    assert not fits(twelve_by_five, 12, z_stride=2)  # of five slices an epoch takes three or two


def test_rows_are_found_in_the_set_that_holds_them(sets):
    mixture = SliceMixture(sets)
    assert len(mixture) == 60 + 32 + 36
    row = mixture.row_in_mixture(1, 3)
    assert mixture.locate(row) == (sets[1], 3)
    example = mixture.example(row, num_slices=3)
    np.testing.assert_array_equal(example.slices_hu, sets[1].neighbours(3))
    assert example.row == row


def test_one_set_has_the_fingerprint_of_itself_and_two_have_both(sets):
    assert SliceMixture(sets[:1]).fingerprint == sets[0].fingerprint
    assert SliceMixture(sets[:2]).fingerprint == f"{sets[0].fingerprint}+{sets[1].fingerprint}"


@pytest.mark.parametrize("weights", [(1, 0, 1), (1, 1), (1, float("nan"), 1)])
def test_weights_that_cannot_be_shares_are_refused(sets, weights):
    with pytest.raises(ValueError, match=r"one weight > 0 for each of 3 sets; found \[1.0, .*share of the examples"):
        SliceMixture(sets, weights)
