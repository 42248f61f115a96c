import pickle
import shutil
import tracemalloc
import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dinox_hf.data.readers.dicom import index_dicom, read_dicom_series
from dinox_hf.data.readers.dicom_header import read_header
from dinox_hf.data.readers.dicom_pixels import to_hu
from dinox_hf.data.readers.files import list_files
from dinox_hf.data.volume import Rejection, Volume
from tests.data.encodings import SYNTAXES, encode
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
    with pydicom.config.disable_value_validation():
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


def test_hu_are_rounded_at_fractions():
    assert to_hu(np.array([3, 5], np.int16), 0.5, 0.1).tolist() == [2, 3]


@pytest.mark.parametrize(
    ("stored", "slope", "intercept", "expected"),
    [
        (np.array([-32768, 5], np.int16), 1, -1024, [-32768, -1019]),
        (np.array([63536, 1024], np.uint16), 1, -1024, [-3024, 0]),
        (np.array([63536, 1000], np.uint16), 1, 0, [-2000, 1000]),
        (np.array([65534, 1024], np.uint16), 0.5, 1000, [999, 1512]),
        (np.array([4294965296, 24], np.uint32), 1, -1024, [-3024, -1000]),
        (np.array([65000, 24], np.int32), 1, -1024, [-32768, -1000]),
        (np.array([33791, 0], np.uint16), 1, -1024, [32767, -1024]),
    ],
)
def test_a_fill_beyond_int16_never_looks_like_bone(stored, slope, intercept, expected):
    assert to_hu(stored, slope, intercept).tolist() == expected


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
    assert "max_gap_mm=5.00" in rejection.advice and rejection.loses == "scan" and rejection.num_files == 5
    assert len(read_one(tmp_path, max_gap_mm=5.0).voxels) == 5


def test_a_damaged_slice_refuses_its_series_even_at_the_end_of_the_stack(tmp_path):
    last = write_series(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:-300])
    rejection = read_rejection(tmp_path)
    assert f"{last.name} (its pixels end after 660 of 960 bytes)" in rejection.reason


@pytest.mark.parametrize("size", [140, 200, 400])
def test_a_file_cut_in_its_header_is_reported_by_name_and_costs_the_only_series_of_its_folder(tmp_path, size):
    first = write_series(tmp_path)[0]
    first.write_bytes(first.read_bytes()[:size])
    rejection, series = read_dicom_series(tmp_path)
    assert series.reason.endswith(f"may lack a slice, since {first.name} beside it cannot be read")
    assert rejection.path == first.name and rejection.loses == series.loses == "scan"


def test_two_slices_in_one_place_are_refused_but_a_copied_file_is_not(tmp_path):
    files = write_series(tmp_path)
    shutil.copy(files[3], tmp_path / "copy.dcm")
    volume, copy = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert copy.path == "copy.dcm" and "a copy of 003.dcm" in copy.reason and copy.loses == "nothing"
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
        ({"ImageOrientationPatient": [1, 0, 0]}, "should hold 6 numbers; found 3"),
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
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "empty.dcm").write_bytes(b"")
    _, *rejections = read_dicom_series(tmp_path)
    assert {rejection.path: rejection.loses for rejection in rejections} == {
        "LICENSE": "nothing",
        "broken.zip": "scan",
        "elsewhere/empty.dcm": "scan",
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
    volume, litter = read_dicom_series(tmp_path / "raw")
    assert len(volume.voxels) == 6 and (litter.path, litter.loses) == ("._001.dcm", "nothing")


@pytest.mark.parametrize("blank", [None, "", "   ", "\0"])
def test_a_series_without_uid_is_what_lies_in_one_folder_of_one_study(tmp_path, blank):
    for folder in ("a", "b"):
        for file in write_series(tmp_path / folder):
            edit(file, SeriesInstanceUID=blank)
    first, second = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(first.voxels, sphere_hu())
    assert first.series_id.startswith("unnamed-") and first.series_id != second.series_id


def test_two_series_without_uid_in_one_folder_are_told_apart_by_their_number(tmp_path):
    for number in (3, 4):
        for file in write_series(tmp_path / str(number), sphere_hu() + np.int16(number), SeriesNumber=number):
            edit(file, SeriesInstanceUID="")
            file.rename(tmp_path / f"{number}-{file.name}")
    volumes = list(read_dicom_series(tmp_path))
    assert sorted(volume.voxels[0, 0, 0] for volume in volumes) == [43, 44]
    assert len({volume.series_id for volume in volumes}) == 2


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_slices_without_uid_get_names_of_their_own(tmp_path, blank):
    for file in write_series(tmp_path):
        edit(file, SOPInstanceUID=blank)
    assert len(set(read_one(tmp_path).slice_uids)) == 6


def test_pixels_that_are_not_square_keep_both_spacings(tmp_path):
    write_series(tmp_path, PixelSpacing=[1.5, 0.5])
    volume = read_one(tmp_path)
    assert volume.spacing_mm == (2.5, 1.5, 0.5)
    np.testing.assert_allclose(volume.affine_lps[:3, :3], np.diag([0.5, 1.5, 2.5]))


def test_uneven_gaps_are_refused_unless_their_largest_is_accepted(tmp_path):
    for index, z_mm in enumerate([0.0, 2.5, 5.0, 9.0, 11.5]):
        slice_dataset(sphere_hu()[index], z_mm, index).save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    assert "gaps from 2.50 to 4.00 mm between 5 slices" in read_rejection(tmp_path).reason
    volume = read_one(tmp_path, max_gap_mm=4.0)
    assert volume.z_mm.tolist() == [0.0, 2.5, 5.0, 9.0, 11.5] and volume.spacing_mm[0] == 11.5 / 4


def test_overlapping_slices_are_placed_by_position_not_by_thickness(tmp_path):
    write_series(tmp_path, SliceThickness=5.0)
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())


def test_positions_rounded_to_a_tenth_are_even(tmp_path):
    for index, z_mm in enumerate([0.0, 0.6, 1.3, 1.9, 2.5, 3.1]):
        slice_dataset(sphere_hu()[index], z_mm, index).save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    assert read_one(tmp_path).spacing_mm[0] == pytest.approx(0.62)


@pytest.mark.parametrize(
    ("dtype", "tags"),
    [
        (np.uint8, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "RescaleSlope": 8, "RescaleIntercept": -1000}),
        (np.int32, {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}),
        (np.uint32, {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31, "RescaleIntercept": -1024}),
    ],
)
def test_numbers_of_8_and_32_bits_are_read(tmp_path, dtype, tags):
    stored = (np.arange(6 * 24 * 20).reshape(6, 24, 20) % 250).astype(dtype)
    write_series(tmp_path, stored, **tags)
    expected = stored.astype(int) * tags.get("RescaleSlope", 1) + tags.get("RescaleIntercept", 0)
    np.testing.assert_array_equal(read_one(tmp_path).voxels, expected)


def test_twelve_signed_bits_keep_their_sign_whatever_lies_above_them(tmp_path):
    stored = (sphere_hu().astype(np.int16) & 0x0FFF) | 0x5000
    write_series(tmp_path, stored.astype(np.int16), BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())


def test_an_unsigned_fill_of_63536_is_the_padding_minus_3024(tmp_path):
    stored = (sphere_hu() + 1024).astype(np.uint16)
    stored[:, :4] = 63536
    write_series(tmp_path, stored, RescaleIntercept=-1024, PixelPaddingValue=63536)
    volume = read_one(tmp_path)
    assert volume.padding_hu == -3024 and (volume.voxels[:, :4] == -3024).all()
    np.testing.assert_array_equal(volume.voxels[:, 4:], sphere_hu()[:, 4:])


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"BitsStored": None}, "without BitsStored"),
        ({"PixelRepresentation": None}, "without PixelRepresentation"),
        ({"RescaleSlope": None}, "without RescaleSlope, so it cannot be turned into HU"),
        ({"RescaleIntercept": None}, "without RescaleIntercept"),
        ({"HighBit": None, "BitsStored": 12}, "BitsAllocated, BitsStored and HighBit contradict each other"),
        ({"BitsStored": 17}, "contradict each other"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"PixelSpacing": [0, 0.7]}, "PixelSpacing is no distance"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two perpendicular directions"),
        ({"PhotometricInterpretation": "RGB"}, "its numbers are colours"),
        ({"Rows": 0}, "its pixels hold"),
        ({"FloatPixelData": bytes(1920), "PixelData": None}, "its pixels are fractions"),
    ],
)
def test_one_slice_that_lacks_what_ct_needs_costs_its_series(tmp_path, tags, reason):
    file = write_series(tmp_path)[3]
    edit(file, **tags)
    rejection = read_rejection(tmp_path)
    assert "found 1 damaged" in rejection.reason and reason in rejection.reason and rejection.loses == "scan"


def test_signed_numbers_without_any_rescale_are_hu_if_the_whole_series_says_so(tmp_path):
    files = write_series(tmp_path, RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())
    edit(files[2], RescaleSlope=1, RescaleIntercept=-1024)
    assert "one way to HU" in read_rejection(tmp_path).reason


@pytest.mark.parametrize("voxels", [sphere_hu().astype(np.uint16), sphere_hu() + 1000])
def test_numbers_that_cannot_be_hu_and_do_not_say_how_are_refused(tmp_path, voxels):
    write_series(tmp_path, voxels, RescaleSlope=None, RescaleIntercept=None)
    rejection = read_rejection(tmp_path)
    assert "HU" in rejection.reason and rejection.loses == "scan"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelSpacing": [0.8, 0.71]}, "one pixel spacing in mm"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.9998, 0.02]}, "one orientation"),
        ({"PixelRepresentation": 0}, "one number format (bits, lowest bit, sign)"),
        ({"BitsStored": 15, "HighBit": 14}, "one number format (bits, lowest bit, sign)"),
        ({"SliceThickness": 1.0}, "one thickness in mm"),
        ({"ConvolutionKernel": "B70f"}, "one kernel; found B40f and B70f"),
        ({"ConvolutionKernel": "Dr Jane Doe"}, "one kernel; found B40f and another"),
        ({"ImagePositionPatient": [-2.0, -9.0, -22.5]}, "straight above one another; found 003.dcm 5.0 mm aside"),
    ],
)
def test_slices_of_one_series_must_agree(tmp_path, tags, reason):
    files = write_series(tmp_path, SliceThickness=2.5, ConvolutionKernel="B40f")
    edit(files[3], **tags)
    rejection = read_rejection(tmp_path)
    assert reason in rejection.reason and rejection.loses == "scan"


def test_two_series_of_different_kernels_stay_two_series_of_one_patient(tmp_path):
    write_series(tmp_path, ConvolutionKernel="B40f")
    for file in write_series(tmp_path / "b", SeriesInstanceUID="1.2.9", ConvolutionKernel="B70f"):
        file.rename(tmp_path / f"other{file.name}")
    first, second = read_dicom_series(tmp_path)
    assert first.patient_id == second.patient_id and first.series_id != second.series_id


def test_many_slices_in_one_place_are_a_watch_for_contrast_and_no_lost_scan(tmp_path):
    for index, pixels in enumerate(sphere_hu()):
        slice_dataset(pixels, 10.0, index).save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    rejection = read_rejection(tmp_path)
    assert "found 6 slices in one place" in rejection.reason and rejection.loses == "nothing"


@pytest.mark.parametrize("tags", [{"SeriesInstanceUID": "1.2.4"}, {"PatientID": "P2"}, {"SeriesInstanceUID": None}])
def test_a_slice_that_fits_a_series_but_names_another_costs_it(tmp_path, tags):
    edit(write_series(tmp_path)[-1], **tags)
    results = list(read_dicom_series(tmp_path))
    assert not any(isinstance(result, Volume) for result in results)
    assert any("006.dcm" not in result.path and "may lack a slice" in result.reason for result in results)


def test_a_lone_slice_elsewhere_leaves_the_series_alone(tmp_path):
    files = write_series(tmp_path)
    dataset = pydicom.dcmread(files[0])
    dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "1.2.4", "1.2.4.1"
    dataset.ImagePositionPatient = [-7.0, -9.0, 200.0]
    dataset.save_as(tmp_path / "watch.dcm")
    volume, rejection = read_dicom_series(tmp_path)
    assert len(volume.voxels) == 6 and rejection.loses == "nothing"


def test_a_damaged_copy_beside_a_whole_one_does_no_harm(tmp_path):
    files = write_series(tmp_path)
    (tmp_path / "000.dcm").write_bytes(files[2].read_bytes()[:-100])
    volume, copy = read_dicom_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert copy.path == "000.dcm" and copy.reason == "a copy of 004.dcm" and copy.loses == "nothing"


def test_files_without_preamble_or_group_2_are_read(tmp_path):
    for number, file in enumerate(write_series(tmp_path)):
        whole = file.read_bytes()
        data_set = whole.index(b"\x08\0\x08\0CS")
        file.write_bytes(whole[132:] if number % 2 else whole[data_set:])
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())


def test_a_file_that_misstates_implicit_as_explicit_is_read(tmp_path):
    for index, pixels in enumerate(sphere_hu()):
        whole = encode(slice_dataset(pixels, -30 + 2.5 * index, index), "implicit")
        whole = whole.replace(b"UI\x12\x001.2.840.10008.1.2\0", b"UI\x14\x001.2.840.10008.1.2.1\0")
        (tmp_path / f"{index}.dcm").write_bytes(whole)
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())


@pytest.mark.parametrize("syntax", list(SYNTAXES))
def test_every_transfer_syntax_gives_the_same_voxels(tmp_path, syntax):
    for index, pixels in enumerate(sphere_hu()):
        whole = encode(slice_dataset(pixels, -30 + 2.5 * index, index), syntax)
        (tmp_path / f"{index}.dcm").write_bytes(whole)
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())


def test_zeros_that_fill_a_file_up_to_whole_blocks_are_nothing(tmp_path):
    files = write_series(tmp_path)
    for file in files:
        file.write_bytes(file.read_bytes().ljust(4096, b"\0"))
    np.testing.assert_array_equal(read_one(tmp_path).voxels, sphere_hu())
    # Any other number of zeros may be bytes of the pixels that were doubled.
    files[0].write_bytes(files[0].read_bytes() + bytes(100))
    assert "follows its pixels" in read_rejection(tmp_path).reason


def test_what_cannot_be_decoded_is_named(tmp_path):
    for file in write_series(tmp_path):
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x18\x001.2.840.10008.1.2.4.202\0"))
    assert "stored as High-Throughput JPEG 2000" in read_rejection(tmp_path).reason


@pytest.mark.parametrize("syntax", ["explicit", "RLE", "JPEG", "JPEG 2000", "deflated"])
def test_a_declared_giant_asks_for_no_memory(tmp_path, syntax):
    for index, pixels in enumerate(sphere_hu()):
        whole = encode(slice_dataset(pixels, -30 + 2.5 * index, index), syntax)
        giant = b"\x28\0\x10\0US\2\0\xff\xff\x28\0\x11\0US\2\0\xff\xff"
        whole = whole.replace(b"\x28\0\x10\0US\2\0\x18\0\x28\0\x11\0US\2\0\x14\0", giant)
        (tmp_path / f"{index}.dcm").write_bytes(whole)
    if syntax == "deflated":
        # Its header is packed, so the giant is written before.
        for index, pixels in enumerate(sphere_hu()):
            dataset = slice_dataset(pixels, -30 + 2.5 * index, index, Rows=65535, Columns=65535)
            dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
            dataset.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    tracemalloc.start()
    rejection = read_rejection(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rejection.loses == "scan" and peak < 50e6


def test_an_index_of_many_slices_is_small_and_travels(tmp_path):
    write_series(tmp_path)
    entries = [read_header(file) for file in list_files(tmp_path)]
    travelled = pickle.loads(pickle.dumps(entries))
    assert len(pickle.dumps(entries * 1)) / 6 < 500
    (stack,), _ = index_dicom(travelled)
    assert len({id(header.form) for header in stack.placement.headers}) == 1
    np.testing.assert_array_equal(stack.load().voxels, sphere_hu())
