import shutil
import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dinox_hf.data.readers.dicom import read_dicom_series
from dinox_hf.data.readers.dicom_pixels import to_hu
from dinox_hf.data.volume import Rejection, Volume
from tests.data.scans import SPACING_MM, slice_dataset, sphere_hu, write_series


def read_one(folder, **options) -> Volume:
    (volume,) = read_dicom_series(folder, **options)
    assert isinstance(volume, Volume), volume
    return volume


def read_rejection(folder) -> Rejection:
    (rejection,) = read_dicom_series(folder)
    assert isinstance(rejection, Rejection)
    return rejection


def edit(file, **tags):
    dataset = pydicom.dcmread(file)
    for name, value in tags.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(file)


def test_slices_are_sorted_by_position_although_file_names_and_numbers_run_otherwise(tmp_path):
    files = write_series(tmp_path)
    for number, file in enumerate(files):
        edit(file, InstanceNumber=(number * 5) % 7)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    np.testing.assert_allclose(volume.z_mm, -30 + 2.5 * np.arange(6))
    assert volume.spacing_mm == SPACING_MM
    assert volume.slice_uids == tuple(f"1.2.3.{index}" for index in range(6))
    assert (volume.patient_id, volume.series_id, volume.modality) == ("P1", "1.2.3", "ct")


@pytest.mark.parametrize(
    ("orientation", "to_stored"),
    [
        ([1, 0, 0, 0, 1, 0], lambda slice_hu: slice_hu),
        ([-1, 0, 0, 0, 1, 0], lambda slice_hu: slice_hu[:, ::-1]),
        ([1, 0, 0, 0, -1, 0], lambda slice_hu: slice_hu[::-1]),
        ([-1, 0, 0, 0, -1, 0], lambda slice_hu: slice_hu[::-1, ::-1]),
        ([0, 1, 0, 1, 0, 0], lambda slice_hu: slice_hu.T),
        ([0, -1, 0, 1, 0, 0], lambda slice_hu: slice_hu[::-1].T),
    ],
)
def test_any_stored_orientation_gives_the_same_voxels_in_the_same_place(tmp_path, orientation, to_stored):
    expected = sphere_hu()
    column_axis, row_axis = np.array(orientation, float).reshape(2, 3)
    column_mm = abs(column_axis) @ [0.7, 0.8, 2.5]
    row_mm = abs(row_axis) @ [0.7, 0.8, 2.5]
    stored = np.stack([to_stored(slice_hu) for slice_hu in expected])
    # The first stored pixel lies at the far end of every axis that runs backwards.
    far_end = np.array([19 * 0.7, 23 * 0.8, 0]) * (np.minimum(column_axis + row_axis, 0) < 0)
    for index, pixels in enumerate(stored):
        position = [*(np.array([-7.0, -9.0, 0]) + far_end)[:2], -30 + 2.5 * index]
        slice_dataset(
            np.ascontiguousarray(pixels),
            0,
            index,
            ImagePositionPatient=position,
            ImageOrientationPatient=orientation,
            PixelSpacing=[row_mm, column_mm],
        ).save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.voxels, expected)
    np.testing.assert_allclose(volume.affine_lps[:3, 3], [-7, -9, -30], atol=1e-9)
    np.testing.assert_allclose(volume.affine_lps[:3, :3], np.diag([0.7, 0.8, 2.5]), atol=1e-9)


def test_an_independent_reader_finds_the_same_hu(tmp_path):
    write_series(tmp_path, (sphere_hu() + 1000).astype(np.uint16), RescaleIntercept=-1000)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sitk.GetArrayFromImage(reader.Execute()))


def test_unsigned_pixels_with_intercept_minus_1000_have_no_padding(tmp_path):
    voxels = sphere_hu()
    voxels[:, :4] = -1000
    write_series(tmp_path, (voxels + 1000).astype(np.uint16), RescaleIntercept=-1000, PixelPaddingValue=63536)
    volume = read_one(tmp_path)
    np.testing.assert_array_equal(volume.voxels, voxels)
    assert volume.padding_hu is None


def test_padding_is_the_fill_that_is_stored_not_the_one_declared(tmp_path):
    voxels = sphere_hu()
    voxels[:, :4] = -2048
    write_series(tmp_path, voxels, PixelPaddingValue=-2000)
    assert read_one(tmp_path).padding_hu == -2048


def test_every_slice_is_rescaled_by_its_own_slope(tmp_path):
    files = write_series(tmp_path, np.full((3, 4, 5), 100, np.int16))
    edit(files[1], RescaleSlope="2", RescaleIntercept="-0010.0E+0")
    assert read_one(tmp_path).voxels[:, 0, 0].tolist() == [100, 190, 100]


def test_hu_are_rounded_at_fractions_and_clipped_to_int16():
    assert to_hu(np.array([3, 5], np.int16), 0.5, 0.1).tolist() == [2, 3]
    assert to_hu(np.array([-32768, 65000]), 1, -1024).tolist() == [-32768, 32767]


def test_bits_above_the_stored_ones_are_dropped(tmp_path):
    pixels = np.full((2, 4, 4), 100 + 0xF000, np.uint16)
    write_series(tmp_path, pixels, BitsStored=12, HighBit=11)
    assert (read_one(tmp_path).voxels == 100).all()


def test_odd_decimals_and_missing_tags_still_read(tmp_path):
    for file in write_series(tmp_path, PatientID=None, RescaleSlope=None, RescaleIntercept=None, Modality=None):
        edit(file, PixelSpacing=["006.445312e-01", "006.445312e-01"])
    volume = read_one(tmp_path)
    assert volume.spacing_mm == (2.5, 0.6445312, 0.6445312)
    assert volume.patient_id.startswith("unknown-")


def test_patients_without_id_are_never_merged(tmp_path):
    write_series(tmp_path / "a", PatientID=None, StudyInstanceUID="1.7", SeriesInstanceUID="1.7.1")
    write_series(tmp_path / "b", PatientID=None, StudyInstanceUID="1.8", SeriesInstanceUID="1.8.1")
    first, second = read_dicom_series(tmp_path)
    assert first.patient_id != second.patient_id


def test_series_in_one_folder_are_told_apart(tmp_path):
    write_series(tmp_path)
    for file in write_series(tmp_path / "b", sphere_hu()[:3], SeriesInstanceUID="1.2.9"):
        file.rename(tmp_path / f"other{file.name}")
    first, second = read_dicom_series(tmp_path)
    assert (len(first.voxels), len(second.voxels)) == (6, 3)


def test_a_zip_archive_reads_like_the_folder_it_holds(tmp_path):
    files = write_series(tmp_path / "plain")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"deep/{file.name}")
    shutil.rmtree(tmp_path / "plain")
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())
    assert list(tmp_path.iterdir()) == [tmp_path / "scan.zip"]


@pytest.mark.parametrize(
    ("encoding", "values"),
    [("big endian", (False, False)), ("implicit", (True, True))],
)
def test_other_encodings_give_the_same_voxels(tmp_path, encoding, values):
    is_implicit, is_little = values
    for file in write_series(tmp_path):
        dataset = pydicom.dcmread(file)
        if not is_little:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        syntax = "1.2.840.10008.1.2" if is_implicit else "1.2.840.10008.1.2.2"
        raw = pydicom.Dataset(dataset)
        raw.file_meta = pydicom.dataset.FileMetaDataset()
        raw.file_meta.TransferSyntaxUID = syntax
        raw.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        raw.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        pydicom.dcmwrite(file, raw, implicit_vr=is_implicit, little_endian=is_little, enforce_file_format=True)
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())


def test_a_missing_slice_is_refused_with_its_gap_and_how_to_accept_it(tmp_path):
    write_series(tmp_path)[2].unlink()
    rejection = read_rejection(tmp_path)
    assert "gaps from 2.50 to 5.00 mm between 5 slices" in rejection.reason
    assert "max_gap_mm=5.00" in rejection.advice and rejection.loses_scan and rejection.num_files == 5
    assert len(read_one(tmp_path, max_gap_mm=5.0).voxels) == 5


def test_a_damaged_slice_refuses_its_series_even_at_the_end_of_the_stack(tmp_path):
    last = write_series(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:-300])
    rejection = read_rejection(tmp_path)
    assert f"{last.name} (its pixels end after 660 of 960 bytes)" in rejection.reason


@pytest.mark.parametrize("size", [140, 200, 400])
def test_a_file_cut_in_its_header_is_reported_by_name(tmp_path, size):
    first = write_series(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:size])
    volume, rejection = read_dicom_series(tmp_path)
    assert len(volume.voxels) == 5
    assert rejection.path == first.name and rejection.loses_scan


def test_two_slices_in_one_place_are_refused_but_a_copied_file_is_not(tmp_path):
    files = write_series(tmp_path)
    shutil.copy(files[3], tmp_path / "copy.dcm")
    volume, copy = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert copy.path == "copy.dcm" and "a copy of 003.dcm" in copy.reason and not copy.loses_scan
    edit(tmp_path / "copy.dcm", SOPInstanceUID="1.2.3.77")
    assert "found two at -22.50 mm: 003.dcm and copy.dcm" in read_rejection(tmp_path).reason


def test_a_tilted_gantry_is_refused(tmp_path):
    for index, pixels in enumerate(sphere_hu()):
        position = [-7.0, -9.0, -30 + 2.5 * index]
        tilted = [1, 0, 0, 0, np.cos(0.2), -np.sin(0.2)]
        dataset = slice_dataset(pixels, 0, index, ImagePositionPatient=position, ImageOrientationPatient=tilted)
        dataset.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    assert "gantry tilt of 11.5 degrees" in read_rejection(tmp_path).reason


def test_mixed_sizes_are_refused(tmp_path):
    write_series(tmp_path)
    dataset = slice_dataset(np.zeros((10, 12), np.int16), 20.0, 30)
    dataset.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    assert "size (rows, columns); found (10, 12) and (24, 20)" in read_rejection(tmp_path).reason


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "a localizer"),
        ({"Modality": "MR"}, "modality MR, not CT"),
        ({"PixelSpacing": None}, "without PixelSpacing"),
        ({"NumberOfFrames": 3}, "multi-frame CT with 3 frames"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "should have axial slices"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "header is damaged"),
    ],
)
def test_what_is_no_axial_ct_slice_is_told_apart(tmp_path, tags, reason):
    write_series(tmp_path, **tags)
    rejections = list(read_dicom_series(tmp_path))
    assert rejections and all(reason in rejection.reason for rejection in rejections)


def test_one_slice_is_no_volume(tmp_path):
    write_series(tmp_path, sphere_hu()[:1])
    assert "found one" in read_rejection(tmp_path).reason


def test_other_files_are_listed_not_read(tmp_path):
    write_series(tmp_path)
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "broken.zip").write_bytes(b"PK nothing")
    (tmp_path / "empty.dcm").write_bytes(b"")
    _, *rejections = read_dicom_series(tmp_path)
    assert {rejection.path: rejection.loses_scan for rejection in rejections} == {
        "LICENSE": False,
        "broken.zip": True,
        "empty.dcm": True,
    }


def test_no_identifier_leaves_the_reader(tmp_path):
    for file in write_series(tmp_path):
        edit(file, PatientName="Doe^Jane", InstitutionName="St Elsewhere", PatientBirthDate="19700101")
    volume = read_one(tmp_path)
    text = repr([getattr(volume, name) for name in ("series_id", "patient_id", "slice_uids")])
    assert "Doe" not in text and "Elsewhere" not in text and "1970" not in text


def test_a_path_that_is_not_there_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"found nothing at .*missing"):
        list(read_dicom_series(tmp_path / "missing"))


def test_linked_folders_are_followed_and_each_folder_is_read_once(tmp_path):
    write_series(tmp_path / "elsewhere")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "patient").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw" / "again").symlink_to(tmp_path / "raw")
    assert [type(result).__name__ for result in read_dicom_series(tmp_path / "raw")] == ["Volume"]


def test_what_macos_leaves_beside_a_slice_is_no_damaged_slice(tmp_path):
    write_series(tmp_path / "raw")
    (tmp_path / "raw" / "._001.dcm").write_bytes(b"\0\5\26\7")
    assert [type(result).__name__ for result in read_dicom_series(tmp_path / "raw")] == ["Volume"]
