import shutil
from struct import pack_into

import numpy as np
import pytest
import SimpleITK as sitk

from dinox_hf.data.readers.files import list_files
from dinox_hf.data.readers.series import index_series, read_entry, read_series
from dinox_hf.data.volume import Rejection, Volume
from tests.data.encodings import zip_of
from tests.data.scans import sphere_hu, write_series


def write_image(path, voxels):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-7, -9, -30))
    sitk.WriteImage(image, str(path))


def test_every_volume_format_gives_the_voxels_of_the_dicom_series(tmp_path):
    for name in ("a.nii.gz", "b.nrrd", "c.mhd", "d.mha"):
        write_image(tmp_path / name, sphere_hu())
    write_series(tmp_path / "dicom")
    volumes = [entry for entry in read_series(tmp_path) if isinstance(entry, Volume)]
    assert [volume.patient_id for volume in volumes] == ["P1", "a", "b", "c", "d"]
    for volume in volumes:
        np.testing.assert_array_equal(volume.voxels, sphere_hu())
        np.testing.assert_allclose(volume.affine_lps, volumes[0].affine_lps, atol=1e-5)
        np.testing.assert_allclose(volume.z_mm, volumes[-1].z_mm, atol=1e-5)


def test_a_volume_stored_head_first_is_turned(tmp_path):
    image = sitk.GetImageFromArray(sphere_hu()[::-1, ::-1])
    image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert (np.diff(volume.z_mm) > 0).all()


def test_a_damaged_volume_becomes_a_reason(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"nothing")
    (rejection,) = read_series(tmp_path)
    assert isinstance(rejection, Rejection) and rejection.path == "a.nii.gz" and rejection.loses == "scan"


def image_of(voxels, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-7, -9, -30))
    image.SetDirection(direction)
    return image


def reject(path) -> Rejection:
    (rejection,) = [entry for entry in read_series(path) if isinstance(entry, Rejection)]
    return rejection


def edit_nifti(path, *edits):
    """Overwrite fields of a NIfTI-1 header: (format, offset, values…)."""
    whole = bytearray(path.read_bytes())
    for layout, offset, *values in edits:
        pack_into(layout, whole, offset, *values)
    path.write_bytes(whole)


QFORM, SFORM, QUATERNION, SROWS, PIXDIM, UNITS, DIMS, SLOPE = 252, 254, 256, 280, 76, 123, 40, 112


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.97])
def test_a_cut_volume_is_never_filled_up_with_zeros(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    write_image(path, sphere_hu())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert reject(tmp_path).loses == "scan"


@pytest.mark.parametrize("suffix", ["nii", "nrrd", "mha"])
def test_bytes_too_many_are_refused_since_they_shift_the_rest(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_image(path, sphere_hu())
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + whole[-110:])
    assert "bytes; found" in reject(tmp_path).reason


@pytest.mark.parametrize(("header", "numbers"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw")])
def test_numbers_beside_their_header_belong_to_it(tmp_path, header, numbers):
    write_image(tmp_path / header, sphere_hu())
    (scan,), rejections = index_series(map(read_entry, list_files(tmp_path)))
    assert [file.name for file in scan.files] == [header, numbers] and not rejections
    (tmp_path / numbers).write_bytes((tmp_path / numbers).read_bytes()[:-2])
    results = list(read_series(tmp_path))
    assert {result.path for result in results} == {header, numbers} and "5,760 bytes; found 5,758" in results[0].reason
    (tmp_path / numbers).unlink()
    assert "which its header names, is not beside it" in reject(tmp_path).reason


def test_numbers_without_a_header_are_a_lost_scan(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(100))
    assert reject(tmp_path).loses == "scan" and "numbers without a header" in reject(tmp_path).reason


def test_a_header_and_its_numbers_are_read_out_of_an_archive(tmp_path):
    write_image(tmp_path / "a.nhdr", sphere_hu())
    files = {f"deep/{name}": (tmp_path / name).read_bytes() for name in ("a.nhdr", "a.raw")}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "all.zip").write_bytes(zip_of(files))
    (volume,) = read_series(tmp_path / "raw")
    np.testing.assert_array_equal(volume.voxels, sphere_hu())


@pytest.mark.parametrize("compressed", [False, True])
def test_luna16_names_its_scans_by_series_and_packs_them_in_archives(tmp_path, compressed):
    uid = "1.3.6.1.4.1.14519.5.2.1.6279.6001.100225287222365663678666836860"
    for folder in ("plain", "zipped"):
        (tmp_path / folder / "subset0").mkdir(parents=True)
        path = tmp_path / folder / "subset0" / f"{uid}.mhd"
        sitk.WriteImage(image_of(sphere_hu()), str(path), useCompression=compressed)
    shutil.make_archive(str(tmp_path / "packed" / "subset0"), "zip", tmp_path / "zipped")
    for place in ("plain", "packed"):
        (scan,), rejections = index_series(map(read_entry, list_files(tmp_path / place)))
        volume = scan.load()
        np.testing.assert_array_equal(volume.voxels, sphere_hu())
        np.testing.assert_allclose(volume.affine_lps[:3, 3], (-7, -9, -30))
        assert volume.series_id == volume.patient_id == uid and not scan.is_turned and not rejections
        assert len(scan.files) == 2 and all(file.stamp() for file in scan.files)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_every_volume_format_is_read_out_of_an_archive(tmp_path, suffix):
    write_image(tmp_path / f"a.{suffix}", sphere_hu())
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "all.zip").write_bytes(zip_of({f"deep/a.{suffix}": (tmp_path / f"a.{suffix}").read_bytes()}))
    (volume,) = read_series(tmp_path / "raw")
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert volume.patient_id == "all.zip/deep/a"


def test_files_of_one_name_in_two_folders_are_two_patients(tmp_path):
    for folder in ("p1", "p2"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "ct.v2.nii.gz", sphere_hu())
    assert [volume.patient_id for volume in read_series(tmp_path)] == ["p1/ct.v2", "p2/ct.v2"]


def test_right_anterior_superior_axes_are_turned_to_ours_and_told(tmp_path):
    image = image_of(np.ascontiguousarray(sphere_hu()[:, ::-1, ::-1]), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin((-7 + 19 * 0.7, -9 + 23 * 0.8, -30))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    (scan,), _ = index_series(map(read_entry, list_files(tmp_path)))
    volume = scan.load()
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    np.testing.assert_allclose(volume.affine_lps[:3, 3], (-7, -9, -30), atol=1e-5)
    assert scan.is_turned


def test_a_sagittal_volume_is_turned_with_its_spacing(tmp_path):
    # Stored axes run to posterior, to the head and to the left.
    image = image_of(np.ascontiguousarray(sphere_hu().transpose(2, 0, 1)), (0, 0, 1, 1, 0, 0, 0, 1, 0))
    image.SetSpacing((0.8, 2.5, 0.7))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    np.testing.assert_allclose(volume.spacing_mm, (2.5, 0.8, 0.7))


def test_a_slightly_rotated_volume_keeps_its_rotation(tmp_path):
    cosine, sine = np.cos(0.1), np.sin(0.1)
    sitk.WriteImage(image_of(sphere_hu(), (1, 0, 0, 0, cosine, -sine, 0, sine, cosine)), str(tmp_path / "a.nii.gz"))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    np.testing.assert_allclose(volume.affine_lps[:3, 2] / 2.5, (0, -sine, cosine), atol=1e-5)
    np.testing.assert_allclose(np.diff(volume.z_mm), 2.5, atol=1e-5)


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ([("<f", SROWS + 8, 0.5)], "its axes are not perpendicular"),
        ([("<h", QFORM, 0), ("<f", SROWS + 8, 0.5)], "its axes are not perpendicular"),
        ([("<2h", QFORM, 0, 0)], "does not say which side is left"),
        ([("<f", SROWS + 40, 5.0)], "two spacings contradict each other"),
        ([("<3f", QUATERNION, 0.0, 0.0, 0.0)], "two orientations contradict each other"),
        ([("<f", PIXDIM, -1.0)], "two orientations contradict each other"),
        ([("<b", UNITS, 1)], "should lie 0.001 to 100 mm apart"),
        ([("<f", PIXDIM + 12, 0.0)], "its spacing (pixdim) is not positive"),
        ([("<f", PIXDIM + 12, float("nan"))], "its spacing (pixdim) is not positive"),
        ([("<4h", DIMS, 4, 20, 24, 3), ("<h", DIMS + 8, 2)], "should be one 3-D volume"),
        ([("<4h", DIMS, 3, 32767, 32767, 32767)], "NIfTI header is damaged"),
        ([("<i", 0, 347)], "NIfTI header is damaged"),
    ],
)
def test_a_nifti_whose_geometry_is_doubtful_is_refused(tmp_path, edits, reason):
    write_image(tmp_path / "a.nii", sphere_hu())
    edit_nifti(tmp_path / "a.nii", *edits)
    assert reason in reject(tmp_path).reason


def test_a_fourth_axis_of_one_is_no_axis(tmp_path):
    write_image(tmp_path / "a.nii", sphere_hu())
    edit_nifti(tmp_path / "a.nii", ("<5h", DIMS, 4, 20, 24, 6, 1))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())


def test_slope_and_intercept_of_a_nifti_count(tmp_path):
    write_image(tmp_path / "a.nii", sphere_hu())
    edit_nifti(tmp_path / "a.nii", ("<2f", SLOPE, 2.0, -1000.0))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu() * 2 - 1000)


def test_fractions_are_rounded_and_what_is_no_number_is_air(tmp_path):
    voxels = sphere_hu().astype(np.float32) + 0.3
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf
    write_image(tmp_path / "a.nrrd", voxels)
    (volume,) = read_series(tmp_path)
    assert volume.voxels[0, 0, :3].tolist() == [-1024, -32768, -32768]
    np.testing.assert_array_equal(volume.voxels[1:], sphere_hu()[1:])


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_nifti_with_what_is_no_number_is_refused_since_it_would_read_as_water(tmp_path, suffix, dtype):
    voxels = sphere_hu().astype(dtype) - 50
    write_image(tmp_path / f"whole.{suffix}", voxels)
    voxels[0, 0, 0] = np.nan
    write_image(tmp_path / f"a.{suffix}", voxels)
    rejection, volume = sorted(read_series(tmp_path), key=lambda result: isinstance(result, Volume))
    assert rejection.path == f"a.{suffix}" and "NaN" in rejection.reason and rejection.loses == "scan"
    np.testing.assert_array_equal(volume.voxels, sphere_hu() - 50)


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.ones((6, 24, 20), np.uint8), "a label map or a picture"),
        (np.ones((6, 24, 20), np.int16), "found nothing below -100: a label map, MR, or an offset"),
        (np.random.default_rng(0).normal(size=(6, 24, 20)), "found nothing below -100: a label map, MR"),
        (np.zeros((6, 24, 20), np.complex64), "2 numbers per voxel"),
    ],
)
def test_what_holds_no_hu_is_no_ct_and_no_lost_scan(tmp_path, voxels, reason):
    write_image(tmp_path / "a.nii.gz", voxels)
    assert reason in reject(tmp_path).reason and reject(tmp_path).loses == "nothing"


@pytest.mark.parametrize(
    ("suffix", "old", "new", "reason"),
    [
        ("mhd", b"ElementSpacing", b"ElementSpicing", "does not say how far its voxels lie apart"),
        ("mhd", b"ElementDataFile = a.raw", b"ElementDataFile = LIST", "a list of files"),
        ("mhd", b"ElementDataFile = a.raw", b"ElementDataFile = /etc/a.raw", None),
        ("nhdr", b"space: left-posterior-superior\n", b"", "does not say which side is left"),
        ("nhdr", b"NRRD0004", b"NRRX0004", "NRRD header is damaged"),
        ("nhdr", b"(0,0,2.5)", b"(0,1.5,2.5)", "not perpendicular"),
    ],
)
def test_text_headers_that_leave_something_open_are_refused(tmp_path, suffix, old, new, reason):
    path = tmp_path / f"a.{suffix}"
    write_image(path, sphere_hu())
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))
    results = [entry for entry in read_series(tmp_path) if entry.__class__ is Volume or entry.path == path.name]
    # A path that leads out of the folder is followed by its last part only, and SimpleITK then finds nothing there.
    assert (
        len(results) == 1 and isinstance(results[0], Rejection) and (reason or "cannot be read") in results[0].reason
    )


def test_a_volume_is_indexed_without_its_voxels(tmp_path):
    write_image(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(-1000, 1000, (20, 64, 64)).astype(np.int16))
    whole = bytearray((tmp_path / "a.nii.gz").read_bytes())
    whole[-8] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(whole)
    (scan,), rejections = index_series(map(read_entry, list_files(tmp_path)))
    assert not rejections and scan.num_bytes == 2 * 20 * 64 * 64
    # The checksum shows when they are read.
    assert "BadGzipFile" in scan.load().reason
