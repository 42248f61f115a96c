import numpy as np
import pyarrow.parquet as pq
import pytest

from dinox_hf.data.patch_set import build_patch_set
from dinox_hf.data.schema import SLICE_FEATURES
from dinox_hf.data.slices import SliceSet
from dinox_hf.data.sources.lidc_patches import HALVES, half_of, read_patches
from tests.data.patches import patch_arrays, write_patches


@pytest.fixture
def patches(tmp_path):
    return read_patches(write_patches(tmp_path / "patches.npz"))


def test_the_set_has_one_row_a_patch_and_no_patient_in_both_halves(patches, tmp_path):
    record = build_patch_set(patches, tmp_path / "set")
    halves = {half: SliceSet(tmp_path / "set", half) for half in HALVES}
    found = {half: {slices.patient_id(row) for row in range(len(slices))} for half, slices in halves.items()}
    assert found[HALVES[0]].isdisjoint(found[HALVES[1]])
    assert found[HALVES[0]] | found[HALVES[1]] == set(patches.patient_ids)
    assert {half: count["num_patches"] for half, count in record["splits"].items()} == {
        half: len(slices) for half, slices in halves.items()
    }
    assert all(slices.num_series == len(slices) for slices in halves.values())


def test_rows_hold_the_pixels_of_their_patch(patches, tmp_path):
    build_patch_set(patches, tmp_path / "set")
    slices = SliceSet(tmp_path / "set", half_of(patches.patient_ids[0]))
    np.testing.assert_array_equal(slices.pixels(0), patches.pixels_hu[0])
    assert slices.example(0).padding_hu == -2048
    assert slices.example(0).spacing_yx_mm == pytest.approx((patches.pixel_mm[0],) * 2)


def test_no_label_goes_into_the_set(patches, tmp_path):
    build_patch_set(patches, tmp_path / "set")
    files = sorted((tmp_path / "set").rglob("*.parquet"))
    assert len(files) == 2
    assert all(pq.read_schema(path).names == list(SLICE_FEATURES) for path in files)


def test_building_again_changes_nothing_and_other_patches_are_refused(patches, tmp_path):
    record = build_patch_set(patches, tmp_path / "set")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    assert build_patch_set(patches, tmp_path / "set") == record
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == before
    others = read_patches(write_patches(tmp_path / "others.npz", z_mm=patch_arrays()["z_mm"] + 1))
    with pytest.raises(ValueError, match="found a set of others"):
        build_patch_set(others, tmp_path / "set")


def test_a_killed_build_is_done_again_and_foreign_files_are_left_alone(patches, tmp_path):
    (tmp_path / "set" / "slices").mkdir(parents=True)
    (tmp_path / "set" / "slices" / "half_a-00000-of-00001.parquet").write_text("cut off")
    build_patch_set(patches, tmp_path / "set")
    assert len(SliceSet(tmp_path / "set", "half_a")) > 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        build_patch_set(patches, tmp_path / "mine")
