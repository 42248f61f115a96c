"""Uploads: what is too large or no scan is refused with a reason, and a reader that goes wrong takes nothing along."""

import subprocess
import zipfile

import numpy as np
import pytest
import SimpleITK as sitk

from dinox_hf.serving import uploads
from dinox_hf.serving.uploads import Limits, UploadReader, check_upload, read_upload
from tests.data.scans import write_series


@pytest.fixture(scope="module")
def series_zip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("upload")
    files = write_series(folder / "raw")
    with zipfile.ZipFile(folder / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, f"study/{file.name}")
    return folder / "scan.zip"


def write_nifti(path, shape=(4, 16, 16), hu=-1000):
    sitk.WriteImage(sitk.GetImageFromArray(np.full(shape, hu, np.int16)), str(path))
    return path


def test_a_zip_of_dicom_becomes_a_volume(series_zip):
    volume, note = read_upload(series_zip, Limits())
    assert volume.modality == "ct" and volume.voxels.ndim == 3 and note == ""


def test_a_nifti_becomes_a_volume(tmp_path):
    volume, _ = read_upload(write_nifti(tmp_path / "scan.nii.gz"), Limits())
    assert volume.voxels.shape == (4, 16, 16)


def test_of_several_series_the_longest_is_taken_and_the_others_are_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.write(write_nifti(tmp_path / "a.nii", (3, 16, 16)), "a.nii")
        archive.write(write_nifti(tmp_path / "b.nii", (5, 16, 16)), "b.nii")
        archive.write(__file__, "notes.nii")
    volume, note = read_upload(tmp_path / "two.zip", Limits())
    assert len(volume.voxels) == 5
    assert note == "2 series found, the longest is shown; 1 files could not be used"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"unpacked_mb": 1, "num_files": 2}, "at most 2 files of 1 MB in the archive; found"),
        ({"num_slices": 2}, "at most 2 slices"),
    ],
)
def test_an_archive_beyond_a_limit_is_refused(series_zip, limits, message):
    with pytest.raises(ValueError, match=message):
        check_upload(series_zip, Limits(**limits))
        read_upload(series_zip, Limits(**limits))


def test_an_upload_beyond_the_size_limit_is_refused(tmp_path):
    (tmp_path / "scan.zip").write_bytes(b"0" * 1_100_000)
    with pytest.raises(ValueError, match="at most 1 MB; found 1 MB"):
        check_upload(tmp_path / "scan.zip", Limits(upload_mb=1))


def test_a_bomb_is_refused_by_its_table_of_contents(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.nii", b"\0" * 3_000_000)
    with pytest.raises(ValueError, match="found 1 files of 3 MB"):
        check_upload(tmp_path / "bomb.zip", Limits(unpacked_mb=2))


def test_a_bomb_inside_an_archive_is_counted_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "inner.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("noise.nii", np.random.default_rng(0).bytes(100_000) + b"\0" * 3_000_000)
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as archive:
        archive.write(tmp_path / "inner.zip", "inner.zip")
    check_upload(tmp_path / "outer.zip", Limits(unpacked_mb=2))
    with pytest.raises(ValueError, match="found 1 files of 3 MB"):
        read_upload(tmp_path / "outer.zip", Limits(unpacked_mb=2))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scan.rar", b"", "a file that ends in .rar"),
        ("scan.zip", b"no archive", "cannot be opened"),
        ("scan.nii", b"no volume", "Expected a CT scan; found"),
        ("scan.zip", None, "an empty archive"),
    ],
)
def test_what_is_no_scan_is_refused_with_a_reason(tmp_path, name, content, message):
    if content is None:
        zipfile.ZipFile(tmp_path / name, "w").close()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        check_upload(tmp_path / name, Limits())
        read_upload(tmp_path / name, Limits())


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="num_slices must be > 0; found 0"):
        Limits(num_slices=0)


@pytest.mark.long
def test_a_process_of_its_own_reads_the_same_and_names_no_patient(series_zip):
    reader = UploadReader(Limits())
    try:
        volume, note = reader.read(series_zip)
    finally:
        reader.close()
    expected, _ = read_upload(series_zip, Limits())
    assert np.array_equal(volume.voxels, expected.voxels)
    assert np.array_equal(volume.affine_lps, expected.affine_lps)
    assert (volume.patient_id, volume.series_id, volume.slice_uids, note) == ("upload", "upload", (), "")


@pytest.mark.parametrize(
    ("script", "message"), [("kill -9 $$", "stopped with code -9"), ("exec sleep 60", "still reading after 1 s")]
)
def test_a_reader_that_dies_or_hangs_becomes_a_message(series_zip, monkeypatch, script, message):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    monkeypatch.setattr(uploads, "_start", lambda: subprocess.Popen(["sh", "-c", script], **pipes))
    reader = UploadReader(Limits(read_seconds=1))
    try:
        with pytest.raises(ValueError, match=message):
            reader.read(series_zip)
    finally:
        reader.close()
