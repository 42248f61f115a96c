"""Shards read one after another: the same slices and the same neighbours as through the memory map."""

import itertools

import numpy as np
import pytest

import dinox_hf.data.streaming as streaming
from dinox_hf.data.slices import SliceSet
from dinox_hf.data.streaming import ROWS_PER_SHARD, StreamedSlices
from tests.data.built_set import noisy_series, series_rows, write_built_set

LENGTHS = (3, 20, 1)


@pytest.fixture
def folder(tmp_path):
    """Three series of 3, 20 (more than a row group) and 1 slices, the second unevenly spaced."""
    draw = np.random.default_rng(0)
    shards = {}
    for number, length in enumerate(LENGTHS):
        rows = series_rows(noisy_series(number, (length, 5, 4)), f"p{number}", padding_hu=-2000 if number else None)
        for row, z_mm in zip(rows, np.cumsum(draw.uniform(0.5, 4.0, length)), strict=True):
            row["z_mm"] = float(z_mm) if number == 1 else row["z_mm"]
        shards[f"train-{number:05d}-of-00003"] = rows
    return write_built_set(tmp_path / "set", shards)


@pytest.mark.parametrize(("num_slices", "apart_mm"), [(1, None), (3, None), (3, 1.0), (3, 5.0), (3, 500.0)])
def test_a_streamed_slice_is_the_one_of_the_memory_map_with_the_same_neighbours(folder, num_slices, apart_mm):
    mapped, streamed = SliceSet(folder), StreamedSlices(folder)
    begins = itertools.accumulate(LENGTHS, initial=0)
    for shard, (begin, length) in enumerate(zip(begins, LENGTHS, strict=False)):
        found = list(streamed.shard(shard, num_slices, apart_mm))
        assert [example.row for example in found] == [shard * ROWS_PER_SHARD + place for place in range(length)]
        for place, example in enumerate(found):
            expected = mapped.example(begin + place, num_slices, apart_mm)
            np.testing.assert_array_equal(np.stack(example.slices_hu), np.stack(expected.slices_hu))
            assert example[1:3] == expected[1:3]


def test_two_series_in_one_shard_are_no_neighbours(tmp_path):
    first, second = noisy_series(1, (2, 4, 4)), noisy_series(2, (2, 4, 4))
    rows = series_rows(first, "p1") + series_rows(second, "p2")
    streamed = StreamedSlices(write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}))
    for apart_mm in (None, 2.5):
        found = [np.stack(example.slices_hu) for example in streamed.shard(0, 3, apart_mm)]
        np.testing.assert_array_equal(found[1], first[[0, 1, 1]])
        np.testing.assert_array_equal(found[2], second[[0, 0, 1]])


def test_it_has_the_fingerprint_and_the_shards_of_the_set(folder):
    streamed = StreamedSlices(folder)
    assert streamed.fingerprint == SliceSet(folder).fingerprint
    assert streamed.num_shards == 3


def test_slices_are_counted_by_the_card_or_else_by_the_first_shard(folder):
    assert StreamedSlices(folder).num_slices == 9
    card = folder / "README.md"
    info = "dataset_info:\n- config_name: slices\n  splits:\n  - {name: train, num_bytes: 1, num_examples: 24}\n---\n"
    card.write_text(card.read_text().removesuffix("---\n") + info)
    assert StreamedSlices(folder).num_slices == 24


def test_pixels_that_wait_do_not_hold_their_table(folder):
    example = next(StreamedSlices(folder).shard(1))
    assert example.slices_hu[0].flags.owndata


def test_shuffled_rows_are_refused(tmp_path):
    rows = series_rows(noisy_series(1, (3, 4, 4)), "p1")
    folder = write_built_set(tmp_path / "set", {"train-00000-of-00001": [rows[0], rows[2], rows[1]]})
    with pytest.raises(ValueError, match=r"found slice_index 2 after 0 in shard 0"):
        list(StreamedSlices(folder).shard(0))


def test_a_missing_set_names_both_places_that_were_looked_at(tmp_path):
    with pytest.raises(
        ValueError, match=r"folder of a built set, or the id of one on the Hub; found neither at .*none"
    ):
        StreamedSlices(tmp_path / "none")


def test_a_hub_that_does_not_answer_is_no_mistake_of_the_user(monkeypatch):
    def unreachable(_folder):
        raise ConnectionError("no network")

    monkeypatch.setattr(streaming, "load_dataset_builder", unreachable)
    with pytest.raises(RuntimeError, match=r"Hub should answer for data set a/b; found ConnectionError.*hf download"):
        StreamedSlices("a/b")


def test_an_unknown_split_is_answered_with_those_that_exist(folder):
    with pytest.raises(ValueError, match=r"split 'test'.*found train"):
        StreamedSlices(folder, "test")
