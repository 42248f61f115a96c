import numpy as np
import pytest

from dinox_hf.data.sources.lidc_patches import HALVES, half_of, read_patches
from tests.data.patches import patch_arrays, write_patches


class _RunsWhenUnpickled:
    def __reduce__(self):
        return (pytest.fail, ("an object of the file was unpickled",))


def test_patches_come_with_the_ratings_of_readers_who_gave_one(tmp_path):
    patches = read_patches(write_patches(tmp_path / "patches.npz"))
    assert len(patches) == 80
    assert patches.ratings["texture"][0] == [2, 2, 2] and patches.ratings["texture"][4] == [5, 5, 5]
    assert patches.ratings["internal_structure"][0] == [3, 3, 3]
    np.testing.assert_array_equal(patches.pixels_hu, patch_arrays()["hu"])


def test_a_patch_is_a_scan_of_one_slice_with_its_pixel_size_and_padding(tmp_path):
    patches = read_patches(write_patches(tmp_path / "patches.npz"))
    first, second = patches.volume(0), patches.volume(1)
    assert first.voxels.shape == (1, 71, 71)
    assert first.spacing_mm[1:] == pytest.approx((patches.pixel_mm[0],) * 2) and np.isnan(first.spacing_mm[0])
    assert (first.padding_hu, second.padding_hu) == (-2048, None)
    assert first.series_id != second.series_id and first.patient_id == second.patient_id == "P-000"


def test_other_pixels_have_another_digest(tmp_path):
    changed = patch_arrays()["hu"]
    changed[3, 4, 5] += 1
    one, same = (read_patches(write_patches(tmp_path / f"{name}.npz")) for name in "ab")
    other = read_patches(write_patches(tmp_path / "c.npz", hu=changed))
    assert one.digest == same.digest != other.digest


def test_halves_are_decided_by_the_patient_alone_and_are_about_equal():
    drawn = [half_of(f"LIDC-IDRI-{number:04d}") for number in range(1000)]
    assert set(drawn) == set(HALVES) and 450 < drawn.count(HALVES[0]) < 550
    assert drawn == [half_of(f"LIDC-IDRI-{number:04d}") for number in range(1000)]


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    path = write_patches(tmp_path / "patches.npz", patient_id=np.array([_RunsWhenUnpickled()] * 80, dtype=object))
    with pytest.raises(ValueError, match="Pickled objects are refused"):
        read_patches(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("hu", None, "hu missing"),
        ("hu", np.zeros((80, 71, 70), np.int16), "square patches"),
        ("hu", np.zeros((80, 71, 71, 1), np.int16), r"\(N, S, S\)"),
        ("hu", np.full((80, 71, 71), np.nan, np.float32), "whole HU"),
        ("hu", np.full((80, 71, 71), 0.5, np.float32), "whole HU"),
        ("hu", np.full((80, 71, 71), 40_000), "whole HU"),
        ("hu", np.full((80, 71, 71), -(2**15), np.int16), "whole HU"),
        ("pixel_mm", np.zeros(80, np.float32), "millimetres above 0"),
        ("z_mm", np.full(80, np.nan, np.float32), "finite millimetres"),
        ("z_mm", np.array(["-100"] * 80), "finite millimetres"),
        ("patient_id", np.array(["P-000"] * 79), r"\(80,\), one value a patch"),
        ("patient_id", np.array([""] * 80), "a name for each patch"),
        ("nodule_id", np.zeros(80, np.int32), "another one for each patch"),
        ("ratings_margin", np.full((80, 4), 7, np.int8), "ratings 1 to 6, 0 for none"),
        ("ratings_texture", np.ones((80, 5), np.int8), r"\(80, 4\) ratings"),
    ],
)
def test_arrays_that_cannot_be_are_refused_by_name(tmp_path, name, array, message):
    with pytest.raises(ValueError, match=message):
        read_patches(write_patches(tmp_path / "patches.npz", **{name: array}))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_hu_of_another_type_are_the_same_patches(tmp_path, dtype):
    same = read_patches(write_patches(tmp_path / "a.npz", hu=patch_arrays()["hu"].astype(dtype)))
    assert same.digest == read_patches(write_patches(tmp_path / "b.npz")).digest


def test_one_patient_under_two_names_is_refused_by_series_and_by_image(tmp_path):
    arrays = patch_arrays()
    renamed = arrays["patient_id"].copy()
    renamed[1] = "P-999"
    with pytest.raises(
        ValueError, match=r"any split by patient of patches\.npz; found series 1\.2\.0 in P-000 and P-999"
    ):
        read_patches(write_patches(tmp_path / "patches.npz", patient_id=renamed))
    series, hu = arrays["series_uid"].copy(), arrays["hu"].copy()
    series[1], hu[1] = "1.2.999", hu[0]
    with pytest.raises(ValueError, match="the same patch of P-000 and P-999"):
        read_patches(write_patches(tmp_path / "patches.npz", patient_id=renamed, series_uid=series, hu=hu))


def test_blanks_and_bytes_make_no_other_patient(tmp_path):
    names = patch_arrays()["patient_id"]
    padded = names.astype("<U9")
    padded[0] += "  "
    for given in (padded, names.astype("S")):
        assert list(read_patches(write_patches(tmp_path / "patches.npz", patient_id=given)).patient_ids) == list(names)


def test_a_damaged_file_is_refused(tmp_path):
    path = write_patches(tmp_path / "patches.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="found a damaged one"):
        read_patches(path)


def test_a_missing_file_and_one_of_another_kind_are_told_apart(tmp_path):
    (tmp_path / "text.npz").write_text("no npz")
    with pytest.raises(ValueError, match="found no file"):
        read_patches(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="a file of another kind"):
        read_patches(tmp_path / "text.npz")


@pytest.mark.real_data
def test_the_real_file_holds_727_nodules_of_316_patients(real_data):
    patches = read_patches(real_data / "nodules" / "lidc_maxslice_71px_otherpatients.npz")
    assert (len(patches), len(set(patches.patient_ids))) == (727, 316)
    assert patches.pixels_hu.shape[1:] == (71, 71) and patches.pixels_hu.min() == -2048
