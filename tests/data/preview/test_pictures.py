"""Which series and slices a contact sheet shows, and what lies on them."""

import numpy as np
import pytest

from dinox_hf.data.preview.overview import SetOverview
from dinox_hf.data.preview.pictures import choose_series, panels_of, take_pictures
from tests.data.built_set import noisy_series, series_rows, write_built_set
from tests.data.preview.example_set import SHAPE, mark, nodule, write_example


def patients(overview, **options) -> list[str]:
    return [series.patient_id for series in choose_series(overview, **options)]


def picture_of(folder, nodules=(), marks=None):
    overview = SetOverview(write_example(folder / "set", ["P1"], list(nodules), marks))
    (picture,) = take_pictures(overview, overview.series)
    return picture


def test_series_are_spread_over_the_patients(tmp_path):
    overview = SetOverview(write_example(tmp_path / "set", [f"P{number}" for number in range(1, 8)]))
    assert patients(overview) == ["P1", "P3", "P5", "P7"]
    assert patients(overview, series_ids=["P2-1"]) == ["P2"]


def test_of_a_patient_the_series_with_nodules_is_shown_first(tmp_path):
    rows = series_rows(noisy_series(0, SHAPE), "P1")
    plain = [row | {"series_id": "plain"} for row in series_rows(noisy_series(1, SHAPE), "P1")]
    folder = write_example(tmp_path / "set", ["P2"], [nodule("P1")])
    write_built_set(tmp_path / "two", {"train-00000-of-00001": plain + rows})
    (folder / "slices/train-00000-of-00001.parquet").unlink()
    (tmp_path / "two/slices/train-00000-of-00001.parquet").rename(folder / "slices/train-00000-of-00001.parquet")
    assert [series.series_id for series in choose_series(SetOverview(folder))] == ["P1-1", "plain"]


def test_an_unknown_series_is_named(tmp_path):
    overview = SetOverview(write_example(tmp_path / "set", ["P1"]))
    with pytest.raises(ValueError, match=r"found '9\.9'\. It holds 1, such as P1-1"):
        choose_series(overview, ["9.9"])


def test_the_key_slice_is_the_largest_of_the_largest_nodule(tmp_path):
    picture = picture_of(tmp_path, [nodule("P1", (0, 1, 1), 4.0), nodule("P1", (3, 8, 5), 9.0)])
    assert (picture.low, picture.key, picture.high) == (2, 4, 5)
    # Rows 8..11, and of the first slice only 9..11.
    assert picture.coronal_row == 10
    np.testing.assert_array_equal(picture.coronal_hu, noisy_series(0, SHAPE)[:, 10])


def test_axial_and_coronal_outlines_cut_the_same_mask(tmp_path):
    coronal, _, key, *_, close_up = panels_of(picture_of(tmp_path, [nodule("P1", (2, 8, 5))]))
    (outline,) = key.outlines
    assert (outline.first_row, outline.first_column, outline.mask.shape) == (8, 5, (4, 3))
    assert outline.text == "6.0 mm\n3 readers" and "6.0 mm, 3 readers" in close_up.title
    (cut,) = coronal.outlines
    # Slices 2 and 3 of 6, head up: rows 2 and 3 from above.
    assert (cut.first_row, cut.first_column, cut.mask.shape) == (2, 5, (2, 3))


def test_the_head_is_on_top_of_a_coronal_view(tmp_path):
    coronal = panels_of(picture_of(tmp_path))[0]
    np.testing.assert_array_equal(coronal.hu, noisy_series(0, SHAPE)[::-1, 12])
    assert coronal.spacing_mm == (2.5, 0.7) and coronal.letters == "HRFL"


def test_marks_show_on_their_slice_only(tmp_path):
    _, low, key, *_ = panels_of(picture_of(tmp_path, marks=[mark("P1", 2, 3.0, 4.0)]))
    assert [row["column"] for row in key.marks] == [4.0] and not low.marks


def test_without_nodules_there_is_no_close_up(tmp_path):
    assert len(panels_of(picture_of(tmp_path))) == 6
