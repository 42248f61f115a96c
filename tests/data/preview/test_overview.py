"""A set told from its shards: series, nodules, marks, and slices by their row."""

import numpy as np
import pytest

from dinox_hf.data.preview.overview import SetOverview
from tests.data.built_set import noisy_series, series_rows, write_built_set
from tests.data.preview.example_set import SHAPE, mark, nodule, write_example


def test_series_and_slices_are_found_over_all_shards_and_splits(tmp_path):
    first, second, third = noisy_series(0, (20, 8, 6)), noisy_series(1, (3, 5, 4)), noisy_series(2, (2, 7, 7))
    shards = {
        "train-00000-of-00001": series_rows(first, "P1", -2000) + series_rows(second, "P2"),
        "test-00000-of-00001": series_rows(third, "P3"),
    }
    overview = SetOverview(write_built_set(tmp_path / "set", shards))
    # Shards come in the order of their names: test before train.
    assert [(entry.patient_id, entry.first_row, entry.num_slices) for entry in overview.series] == [
        *(("P3", 0, 2), ("P1", 2, 20), ("P2", 22, 3))
    ]
    assert overview.series[1].padding_hu == -2000 and overview.series[1].spacing_mm == (2.5, 0.8, 0.7)
    assert (overview.num_slices, overview.num_patients) == (25, 3)
    for entry, voxels in zip(overview.series, (third, first, second), strict=True):
        np.testing.assert_array_equal(np.stack(list(overview.slices_hu(entry))), voxels)


def test_a_series_may_go_on_in_the_next_shard(tmp_path):
    rows = series_rows(noisy_series(0, SHAPE), "P1")
    shards = {"train-00000-of-00002": rows[:4], "train-00001-of-00002": rows[4:]}
    overview = SetOverview(write_built_set(tmp_path / "set", shards))
    assert [entry.num_slices for entry in overview.series] == [6]
    np.testing.assert_array_equal(np.stack(list(overview.slices_hu(overview.series[0]))), noisy_series(0, SHAPE))


def test_nodules_are_listed_without_masks_and_read_with_them_for_some_series(tmp_path):
    overview = SetOverview(write_example(tmp_path / "set", ["P1", "P2"], [nodule("P1"), nodule("P2", readers=4)]))
    assert [row["num_readers"] for row in overview.nodules] == [3, 4] and "mask" not in overview.nodules[0]
    (row,) = overview.nodules_of(["P2-1"])
    assert np.shape(row["mask"]) == (2, 4, 3)


def test_a_set_without_marks_differs_from_one_with_none_of_them(tmp_path):
    assert SetOverview(write_example(tmp_path / "old", ["P1"])).marks is None
    assert SetOverview(write_example(tmp_path / "none", ["P1"], marks=[])).marks == []
    (row,) = SetOverview(write_example(tmp_path / "one", ["P1"], marks=[mark("P1", 2, 3.0, 4.0)])).marks
    assert row["row"] == 3.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "an empty folder"),
        (lambda folder: (folder / "raw").mkdir(parents=True), "found raw"),
        (lambda folder: write_built_set(folder, {"train-0-of-1": shuffled()}), "whole series, one after another"),
    ],
)
def test_what_is_no_built_set_is_refused_with_advice(tmp_path, make, message):
    make(tmp_path / "set")
    with pytest.raises(ValueError, match=message):
        SetOverview(tmp_path / "set")


def shuffled() -> list[dict]:
    rows = series_rows(noisy_series(0, SHAPE), "P1")
    return rows[1:] + rows[:1]
