import pickle
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

from dinox_hf.data.slices import SliceSet
from tests.data.built_set import SCHEMA, noisy_series, series_rows, write_built_set

FIRST, SECOND = noisy_series(1, (3, 5, 7)), noisy_series(2, (2, 6, 4))


@pytest.fixture
def folder(tmp_path):
    """Two shards of train with images of two sizes, one of test."""
    return write_built_set(
        tmp_path / "set",
        {
            "train-00000-of-00002": series_rows(FIRST, "p1", padding_hu=-2048),
            "train-00001-of-00002": series_rows(SECOND, "p2"),
            "test-00000-of-00001": series_rows(FIRST[:1], "p3"),
        },
    )


def test_pixels_are_the_stored_int16_at_any_height_and_width(folder):
    slices = SliceSet(folder)
    assert len(slices) == 5
    for row, expected in enumerate([*FIRST, *SECOND]):
        pixels = slices.pixels(row)
        assert pixels.dtype == np.int16
        np.testing.assert_array_equal(pixels, expected)


def test_pixels_are_a_view_of_the_memory_map(folder):
    slices = SliceSet(folder)
    assert not slices.pixels(1).flags.owndata
    assert not slices.pixels(1).flags.writeable
    assert np.shares_memory(slices.pixels(1), slices.pixels(1))


def test_neighbours_stop_at_the_ends_of_their_series(folder):
    slices = SliceSet(folder)
    np.testing.assert_array_equal(slices.neighbours(1), FIRST)
    np.testing.assert_array_equal(slices.neighbours(2), FIRST[[1, 2, 2]])  # row 3 belongs to another patient
    np.testing.assert_array_equal(slices.neighbours(3), SECOND[[0, 0, 1]])


def test_neighbours_by_distance_are_the_slices_nearest_to_it_but_never_the_slice_itself(tmp_path):
    rows = series_rows(SECOND, "p1") + series_rows(noisy_series(4, (6, 4, 4)), "p2")  # 2.5 mm apart
    for row, z_mm in zip(rows[2:], (0.0, 1.0, 2.0, 4.0, 8.0, 9.0), strict=True):
        row["z_mm"] = z_mm
    slices = SliceSet(write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}))

    def neighbours(row, apart_mm):
        found = slices.neighbours(row, apart_mm)
        return [next(r for r in range(2, 8) if np.array_equal(slices.pixels(r), image)) for image in found]

    assert neighbours(4, 2.2) == [2, 4, 5]  # at 2 mm: -0.2 is nearest to 0, 4.2 to 4
    assert neighbours(5, 4.0) == [2, 5, 6]
    assert neighbours(4, 0.1) == [3, 4, 5]
    assert neighbours(3, 100.0) == [2, 3, 7]  # where the series ends, not in another
    assert neighbours(2, 1.0) == [2, 2, 3]


def test_series_are_counted_and_found_by_their_rows(folder):
    slices = SliceSet(folder)
    assert slices.series_lengths.tolist() == [3, 2] and slices.num_series == 2
    assert slices.series_rows(1) == range(3) and slices.series_rows(3) == range(3, 5)


def test_an_example_is_one_slice_or_three_with_what_a_crop_needs(folder):
    one, three = SliceSet(folder).example(1), SliceSet(folder).example(3, num_slices=3)
    np.testing.assert_array_equal(one.slices_hu, FIRST[1:2])
    assert one[1:] == ((0.8, 0.7), -2048, 1)
    np.testing.assert_array_equal(three.slices_hu, SECOND[[0, 0, 1]])


def test_a_row_knows_its_patient_spacing_and_padding(folder):
    slices = SliceSet(folder)
    assert [slices.patient_id(row) for row in range(5)] == ["p1"] * 3 + ["p2"] * 2
    assert slices.series_id(4) == "p2-1"
    assert slices.spacing_mm(0) == (2.5, 0.8, 0.7)
    assert (slices.padding_hu(0), slices.padding_hu(3)) == (-2048, None)


def test_a_copy_elsewhere_has_the_same_fingerprint(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert SliceSet(copy).fingerprint == SliceSet(folder).fingerprint


def test_one_changed_voxel_that_is_an_extreme_of_its_shard_changes_the_fingerprint(folder, tmp_path):
    brighter = SECOND.copy()
    brighter[0, 0, 0] = 3000
    other = write_built_set(
        tmp_path / "other",
        {
            "train-00000-of-00002": series_rows(FIRST, "p1", padding_hu=-2048),
            "train-00001-of-00002": series_rows(brighter, "p2"),
        },
    )
    assert SliceSet(other).fingerprint != SliceSet(folder).fingerprint
    assert SliceSet(folder, "test").fingerprint != SliceSet(folder).fingerprint


def test_a_worker_that_is_not_forked_is_sent_the_path_and_not_the_pixels(folder):
    message = pickle.dumps(SliceSet(folder))
    assert len(message) < 1000
    np.testing.assert_array_equal(pickle.loads(message).pixels(4), SECOND[1])


def test_a_missing_folder_is_named_with_the_way_to_get_one(tmp_path):
    with pytest.raises(ValueError, match=r"found no folder at .*nowhere.*build_lidc_idri"):
        SliceSet(tmp_path / "nowhere")


def test_a_folder_of_raw_scans_is_told_from_a_built_set(tmp_path):
    (tmp_path / "1-001.dcm").write_bytes(b"DICM")
    with pytest.raises(ValueError, match=r"README.md and slices/\*.parquet.*found 1-001.dcm.*raw scans"):
        SliceSet(tmp_path)


def test_an_unknown_split_is_answered_with_those_that_exist(folder):
    with pytest.raises(ValueError, match=r"split 'validation'.*found test, train"):
        SliceSet(folder, "validation")


def test_a_split_without_rows_is_answered_with_those_that_exist(tmp_path):
    folder = write_built_set(
        tmp_path / "set", {"train-00000-of-00001": series_rows(FIRST, "p1"), "test-00000-of-00001": []}
    )
    with pytest.raises(ValueError, match=r"slices in split 'test'.*found none.*test, train"):
        SliceSet(folder, "test")


def test_a_set_of_another_kind_is_told_by_its_columns(tmp_path):
    schema = pa.schema([*(field for field in SCHEMA if field.name != "image"), ("image", pa.binary())])
    rows = [row | {"image": b"png"} for row in series_rows(FIRST, "p1")]
    folder = write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}, schema)
    with pytest.raises(ValueError, match=r"image as list<.*int16.*found .*image: binary"):
        SliceSet(folder)


def test_shuffled_rows_are_refused_because_neighbours_would_lie(tmp_path):
    rows = series_rows(FIRST, "p1")
    folder = write_built_set(tmp_path / "set", {"train-00000-of-00001": [rows[0], rows[2], rows[1]]})
    with pytest.raises(ValueError, match=r"slice_index 2 after 0 at row 1"):
        SliceSet(folder)


def test_a_set_that_begins_within_a_series_is_refused(tmp_path):
    rows = series_rows(FIRST, "p1")[1:]
    folder = write_built_set(tmp_path / "set", {"train-00000-of-00001": rows})
    with pytest.raises(ValueError, match=r"found slice_index 1 at row 0"):
        SliceSet(folder)


def test_a_slice_of_512_pixels_is_read_in_well_under_a_millisecond(tmp_path):
    series = noisy_series(3, (6, 512, 512))
    slices = SliceSet(write_built_set(tmp_path / "set", {"train-00000-of-00001": series_rows(series, "p1")}))
    seconds = []
    for row in range(6):
        begin = time.perf_counter()
        slices.pixels(row).sum()
        seconds.append(time.perf_counter() - begin)
    assert sorted(seconds)[3] < 2e-3  # measured 0.2 ms with the sum; a copy through Python lists takes 39 ms


def test_a_set_of_the_same_name_in_another_folder_is_not_shown_in_its_place(tmp_path):
    # One README and one folder name: `datasets` takes them for one set and keeps one cache for both.
    for parent, series in (("a", FIRST), ("b", FIRST + 1)):
        folder = write_built_set(tmp_path / parent / "set", {"train-00000-of-00001": series_rows(series, "p1")})
        np.testing.assert_array_equal(SliceSet(folder).pixels(0), series[0])


def test_a_set_that_was_built_again_is_read_anew(tmp_path):
    shards = {"train-00000-of-00002": series_rows(FIRST, "p1"), "train-00001-of-00002": series_rows(SECOND, "p2")}
    SliceSet(write_built_set(tmp_path / "set", shards))
    shutil.rmtree(tmp_path / "set")
    shards["train-00001-of-00002"] = series_rows(SECOND + 1, "p2")
    slices = SliceSet(write_built_set(tmp_path / "set", shards))
    np.testing.assert_array_equal(slices.pixels(3), SECOND[0] + 1)
