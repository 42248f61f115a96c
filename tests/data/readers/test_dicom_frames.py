import time

import numpy as np
import pydicom
import pytest

from dinox_hf.data.readers.dicom_header import read_header
from dinox_hf.data.readers.files import RawFile, list_files
from dinox_hf.data.readers.series import index_series, read_entry, read_series
from dinox_hf.data.volume import Rejection
from tests.data.encodings import encode, enhanced_dataset, to_bytes
from tests.data.scans import SPACING_MM, sphere_hu, write_series


def write(path, dataset):
    path.write_bytes(to_bytes(dataset))


def test_an_enhanced_file_gives_the_volume_of_the_classic_series(tmp_path):
    write(tmp_path / "all.dcm", enhanced_dataset())
    (volume,) = read_series(tmp_path)
    write_series(tmp_path / "classic")
    (classic,) = read_series(tmp_path / "classic")
    np.testing.assert_array_equal(volume.voxels, classic.voxels)
    np.testing.assert_allclose(volume.affine_lps, classic.affine_lps)
    np.testing.assert_allclose(volume.z_mm, classic.z_mm)
    assert volume.spacing_mm == SPACING_MM and volume.series_id == classic.series_id
    # Stored head first, so the frame at the feet is the sixth.
    assert volume.slice_uids[0] == "1.2.3.0#6" and len(set(volume.slice_uids)) == 6


@pytest.mark.parametrize("syntax", ["implicit", "big endian", "deflated", "RLE", "JPEG", "JPEG 2000"])
def test_enhanced_files_are_read_in_every_transfer_syntax(tmp_path, syntax):
    (tmp_path / "all.dcm").write_bytes(encode(enhanced_dataset(), syntax))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())


def test_every_frame_is_rescaled_by_its_own_slope(tmp_path):
    voxels = np.full((3, 4, 5), 100, np.int16)
    write(tmp_path / "all.dcm", enhanced_dataset(voxels, slopes=[1, 2, 0.5]))
    (volume,) = read_series(tmp_path)
    assert volume.voxels[:, 0, 0].tolist() == [100, 200, 50]


def test_rescale_may_stand_in_the_shared_groups(tmp_path):
    write(tmp_path / "all.dcm", enhanced_dataset(shared_rescale=True))
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())


def test_several_enhanced_files_make_one_series(tmp_path):
    low, high = enhanced_dataset(sphere_hu()[:3]), enhanced_dataset(sphere_hu()[3:], SOPInstanceUID="1.2.3.99")
    for group in high.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient[2] += 3 * SPACING_MM[0]
    write(tmp_path / "low.dcm", low)
    write(tmp_path / "high.dcm", high)
    (volume,) = read_series(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())


def test_the_index_decodes_no_pixel(tmp_path):
    (tmp_path / "all.dcm").write_bytes(encode(enhanced_dataset(np.zeros((40, 256, 256), np.int16)), "RLE"))
    begin = time.process_time()
    (scan,), rejections = index_series(map(read_entry, list_files(tmp_path)))
    indexed = time.process_time()
    scan.load()
    assert not rejections and scan.num_slices == 40 and len(scan.files) == 1
    assert indexed - begin < 0.5 * (time.process_time() - indexed)


def test_converted_frames_are_known_by_the_slices_they_come_from(tmp_path):
    dataset = enhanced_dataset()
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        source = type(group)()
        source.ReferencedSOPInstanceUID = f"1.9.{number}"
        group.ConversionSourceAttributesSequence = [source]
    write(tmp_path / "all.dcm", dataset)
    (volume,) = read_series(tmp_path)
    assert volume.slice_uids == tuple(f"1.9.{number}" for number in reversed(range(6)))


def test_two_time_points_in_one_file_are_refused_by_frame(tmp_path):
    dataset = enhanced_dataset()
    groups = dataset.PerFrameFunctionalGroupsSequence
    groups[1].PlanePositionSequence = groups[0].PlanePositionSequence
    write(tmp_path / "all.dcm", dataset)
    (rejection,) = read_series(tmp_path)
    assert "two at -17.50 mm: all.dcm frame 1 and all.dcm frame 2" in rejection.reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda dataset: dataset.PerFrameFunctionalGroupsSequence.pop(), "describe 6 frames; found descriptions of 5"),
        (lambda dataset: delattr(dataset, "PerFrameFunctionalGroupsSequence"), "multi-frame CT with 6 frames"),
        (
            lambda dataset: dataset.__setitem__("NumberOfFrames", pydicom.DataElement("NumberOfFrames", "LO", "x")),
            "NumberOfFrames is no number",
        ),
        (
            lambda dataset: delattr(dataset.PerFrameFunctionalGroupsSequence[2], "PixelValueTransformationSequence"),
            "without RescaleSlope, RescaleIntercept, so it cannot be turned into HU",
        ),
        (
            lambda dataset: delattr(dataset.PerFrameFunctionalGroupsSequence[0], "PlanePositionSequence"),
            "without ImagePositionPatient",
        ),
        (lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:-700]), "end after 5,060 of 5,760 bytes"),
    ],
)
def test_incomplete_multi_frame_files_are_refused_with_a_reason(tmp_path, spoil, reason):
    dataset = enhanced_dataset()
    spoil(dataset)
    write(tmp_path / "all.dcm", dataset)
    (rejection,) = read_series(tmp_path)
    assert isinstance(rejection, Rejection) and reason in rejection.reason and rejection.loses == "scan"


def test_headers_of_frames_share_what_they_share(tmp_path):
    write(tmp_path / "all.dcm", enhanced_dataset())
    headers = read_header(RawFile(tmp_path, "all.dcm"))
    assert len({id(header.form) for header in headers}) == 1
