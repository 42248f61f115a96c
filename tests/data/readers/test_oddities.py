"""Every real file of `dicom_oddities`, `chest_ct` and its neighbours: what becomes of it, by name."""

import io
import shutil
import zipfile

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dinox_hf.data.readers.dicom_elements import ALLOWED_TAGS, read_elements
from dinox_hf.data.readers.dicom_header import read_header
from dinox_hf.data.readers.dicom_pixels import read_slice_hu
from dinox_hf.data.readers.files import RawFile, list_files
from dinox_hf.data.readers.series import read_series
from dinox_hf.data.volume import Rejection, Volume

pytestmark = pytest.mark.real_data


@pytest.fixture
def oddities(real_data):
    return real_data / "dicom_oddities"


def read(path) -> tuple[list[Volume], list[Rejection]]:
    results = list(read_series(path))
    volumes = [result for result in results if isinstance(result, Volume)]
    return volumes, [result for result in results if isinstance(result, Rejection)]


def itk_hu(files) -> np.ndarray:
    """Independent HU of slices in this order."""
    return np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in files])


def test_eight_transfer_syntaxes_of_one_slice_decode_to_the_same_hu(oddities):
    files = list(list_files(oddities / "chest_slice_transfer_syntaxes"))
    slices = [read_slice_hu(*read_header(file)) for file in files]
    assert len(slices) == 8
    for slice_hu in slices:
        np.testing.assert_array_equal(slice_hu, slices[0])
    assert (slices[0].min(), slices[0].max()) == (-3024, 1378)
    explicit = next(file for file in files if file.name.startswith("LittleEndianExplicit"))
    np.testing.assert_array_equal(slices[0][None], itk_hu([explicit.root / explicit.path]))


def test_eight_encodings_of_one_slice_are_seven_copies_and_a_lone_slice(oddities):
    volumes, rejections = read(oddities / "chest_slice_transfer_syntaxes")
    assert not volumes and len(rejections) == 8
    assert sum("a copy of BigEndian" in rejection.reason for rejection in rejections) == 7
    assert "found one" in rejections[-1].reason and {rejection.loses for rejection in rejections} == {"nothing"}


def test_padding_is_the_stored_minus_3024_not_the_declared_minus_32768(oddities, tmp_path):
    source = oddities / "chest_slice_transfer_syntaxes" / "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm"
    for number in range(2):
        dataset = pydicom.dcmread(source)
        dataset.SOPInstanceUID += f".{number}"
        dataset.ImagePositionPatient[2] += 5 * number
        dataset.save_as(tmp_path / f"{number}.dcm")
    ((volume,), _) = read(tmp_path)
    assert volume.padding_hu == -3024


def test_a_tilted_gantry_is_refused_with_its_degrees(oddities):
    _, (rejection,) = read(oddities / "gantry_tilt")
    assert "gantry tilt of 14.0 degrees" in rejection.reason and "Resample" in rejection.advice
    assert (rejection.path, rejection.num_files, rejection.loses) == (".", 4, "scan")


def test_a_missing_slice_is_refused_with_its_gaps_and_read_where_the_gap_is_accepted(oddities):
    _, (rejection,) = read(oddities / "missing_slice")
    assert "gaps from 5.00 to 10.00 mm between 4 slices" in rejection.reason and rejection.loses == "scan"
    (volume,) = read_series(oddities / "missing_slice", max_gap_mm=10.0)
    np.testing.assert_allclose(sorted(np.diff(volume.z_mm)), [5, 5, 10], atol=1e-3)


def test_slices_without_patient_id_and_modality_are_one_unknown_patient(oddities):
    ((volume,), _) = read(oddities / "no_patient_id_already_hu")
    assert volume.patient_id.startswith("unknown-") and (volume.voxels.min(), volume.voxels.max()) == (-2048, 1502)
    files = sorted((oddities / "no_patient_id_already_hu").glob("*.dcm"))
    files.sort(key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    np.testing.assert_array_equal(volume.voxels, itk_hu(files))


def test_another_folder_without_patient_id_is_another_patient(oddities, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(oddities / "no_patient_id_already_hu", tmp_path / name)
    for file in (tmp_path / "b").glob("*.dcm"):
        file.chmod(0o644)
        dataset = pydicom.dcmread(file)
        dataset.StudyInstanceUID = "1.2"
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.save_as(file)
    volumes, _ = read(tmp_path)
    assert len({volume.patient_id for volume in volumes}) == 2


def test_enhanced_multi_frame_ct_is_read_frame_by_frame(oddities):
    path = oddities / "enhanced_ct_multiframe.dcm"
    ((volume,), _) = read(path)
    dataset = pydicom.dcmread(path)
    # Slope 1 and intercept -1024 stand in the shared groups; columns run to the patient's right.
    expected = dataset.pixel_array[:, :, ::-1].astype(int) - 1024
    np.testing.assert_array_equal(volume.voxels, expected)
    np.testing.assert_allclose(volume.z_mm, [-159, -149])
    assert volume.spacing_mm == (10.0, 0.388672, 0.388672)
    assert volume.slice_uids == tuple(f"{dataset.SOPInstanceUID}#{number}" for number in (1, 2))
    np.testing.assert_allclose(volume.affine_lps[:3, 3], [99.5 - 511 * 0.388672, -301.5, -159])


def test_a_dicom_seg_beside_its_ct_is_told_apart(oddities):
    ((volume,), (rejection,)) = read(oddities / "ct_3slices_with_dicom_seg")
    files = [oddities / "ct_3slices_with_dicom_seg" / f"0{number}.dcm" for number in (1, 2, 3)]
    files.sort(key=lambda file: pydicom.dcmread(file).ImagePositionPatient[2])
    np.testing.assert_array_equal(volume.voxels, itk_hu(files))
    # 1.25 mm thick, 1 mm apart: overlapping slices are placed by position.
    assert volume.padding_hu == -3024 and volume.spacing_mm == (1.0, 0.810547, 0.810547)
    assert (rejection.path, rejection.reason, rejection.loses) == ("liver_seg.dcm", "modality SEG, not CT", "nothing")


def test_a_sign_that_differs_between_header_and_stream_follows_the_header(oddities):
    (header,) = read_header(RawFile(oddities, "J2K_pixelrep_mismatch.dcm"))
    slice_hu = read_slice_hu(header)
    assert header.form.is_signed and (slice_hu.min(), slice_hu.max(), slice_hu[0, 0]) == (-2000, 1896, -2000)
    np.testing.assert_array_equal(slice_hu[None], itk_hu([oddities / "J2K_pixelrep_mismatch.dcm"]))


def test_a_lone_ct_slice_is_no_volume(oddities):
    _, (rejection,) = read(oddities / "CT_small.dcm")
    assert "found one" in rejection.reason and rejection.loses == "nothing"


def test_truncated_mr_is_refused_as_mr(oddities):
    _, (rejection,) = read(oddities / "MR_truncated.dcm")
    assert rejection.reason == "modality MR, not CT" and rejection.loses == "nothing"


def test_the_same_file_as_ct_is_refused_as_truncated(oddities, tmp_path):
    dataset = pydicom.dcmread(oddities / "MR_truncated.dcm", stop_before_pixels=True)
    whole = (oddities / "MR_truncated.dcm").read_bytes()
    file = io.BytesIO(whole.replace(str(dataset.SOPClassUID).encode(), b"1.2.840.10008.5.1.4.1.1.2\0"[:25]))
    (tmp_path / "ct.dcm").write_bytes(file.getvalue().replace(b"CS\x02\0MR", b"CS\x02\0CT"))
    _, (rejection,) = read(tmp_path)
    assert "pixels end after 8,130 of 8,192 bytes" in rejection.reason and rejection.loses == "scan"


def test_odd_decimals_of_ten_patients_are_numbers(real_data, tmp_path):
    with zipfile.ZipFile(real_data / "chest_ct" / "TCGA_single_slices" / "dicom.zip") as archive:
        archive.extractall(tmp_path)
    headers = [read_header(file)[0] for file in list_files(tmp_path)]
    assert len({header.form.patient_id for header in headers}) == 10
    for header in headers:
        path = header.file.root / header.file.path
        np.testing.assert_array_equal(read_slice_hu(header)[None], np.rint(itk_hu([path])))
        assert header.form.pixel_spacing_mm == tuple(map(float, pydicom.dcmread(path).PixelSpacing))


def test_lone_slices_of_other_patients_in_one_archive_lose_nothing(real_data):
    volumes, rejections = read(real_data / "chest_ct" / "TCGA_single_slices")
    assert not volumes and {rejection.loses for rejection in rejections} == {"nothing"}


@pytest.mark.parametrize(("name", "num_slices", "highest"), [("dicom_B40f", 30, 1548), ("dicom_B70f", 16, 1797)])
def test_one_acquisition_with_two_kernels_is_two_series(real_data, name, num_slices, highest):
    volumes, _ = read(real_data / "chest_ct" / "Lung_Dx-A0002")
    (volume,) = [volume for volume in volumes if len(volume.voxels) == num_slices]
    assert volume.patient_id == "Lung_Dx-A0002" and volume.voxels.max() == highest
    assert volume.spacing_mm[0] == 8.0 and volume.padding_hu is None
    assert len({volume.series_id for volume in volumes}) == 2


def test_two_kernels_under_one_series_uid_are_refused_by_name(real_data, tmp_path):
    for name in ("dicom_B40f", "dicom_B70f"):
        with zipfile.ZipFile(real_data / "chest_ct" / "Lung_Dx-A0002" / f"{name}.zip") as archive:
            archive.extractall(tmp_path / name)
    for file in tmp_path.rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID = "1.2.3"
        dataset.save_as(file)
    volumes, (rejection,) = read(tmp_path)
    assert not volumes and "one kernel; found B40f and B70f" in rejection.reason and rejection.loses == "scan"


def test_mr_series_in_archives_are_told_apart(real_data):
    volumes, rejections = read(real_data / "prostate_mri")
    assert not volumes and {rejection.reason for rejection in rejections} == {"modality MR, not CT"}


def test_nifti_ct_is_read_and_its_label_maps_are_not(real_data):
    volumes, rejections = read(real_data / "ct_nifti")
    assert [volume.voxels.shape for volume in volumes] == [(112, 101, 122), (30, 101, 122)]
    assert (volumes[0].voxels.min(), volumes[0].voxels.max()) == (-1207, 3382)
    image = sitk.DICOMOrient(sitk.ReadImage(str(real_data / "ct_nifti" / "example_ct.nii.gz")), "LPS")
    np.testing.assert_array_equal(volumes[0].voxels, sitk.GetArrayFromImage(image))
    assert all("label map" in rejection.reason and rejection.loses == "nothing" for rejection in rejections)


def test_brain_mri_and_its_mask_are_no_ct(real_data):
    volumes, rejections = read(real_data / "brain_mri" / "brain1_image.nrrd")
    assert not volumes and "found nothing below -100: a label map, MR" in rejections[0].reason


def test_the_walk_finds_what_pydicom_finds_in_every_file(oddities):
    compared = 0
    for path in sorted(oddities.rglob("*.dcm")):
        with open(path, "rb") as stream:
            elements = read_elements(stream).elements
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        for keyword in ALLOWED_TAGS:
            value = dataset.get(keyword)
            if keyword.endswith("Sequence"):
                assert len(elements.get(keyword, ())) == len(value or ())
            elif keyword not in dataset:
                assert not elements.get(keyword) or keyword == "SOPClassUID"
            elif dataset[keyword].VR == "US":
                assert elements.whole(keyword) == value
            elif dataset[keyword].VR == "DS":
                assert elements.decimals(keyword) == tuple(np.atleast_1d(value if value is not None else []))
            else:
                words = value if dataset[keyword].VM > 1 else [value or ""]
                assert elements.text(keyword) == "\\".join(map(str, words))
            compared += 1
    assert compared > 500
