"""Folders and archives as people have them: NBIA and IDC layouts, zips of zips, dangling links, passwords."""

import os
import shutil
import zipfile

import numpy as np
import pytest

from dinox_hf.data.readers.files import list_files
from dinox_hf.data.readers.series import read_series
from dinox_hf.data.volume import Rejection, Volume
from tests.data.encodings import zip_of
from tests.data.scans import sphere_hu, write_series


@pytest.fixture
def content(tmp_path) -> dict[str, bytes]:
    """Files of a series by name."""
    content = {file.name: file.read_bytes() for file in write_series(tmp_path / "source")}
    shutil.rmtree(tmp_path / "source")
    return content


def read(folder) -> tuple[list[Volume], list[Rejection]]:
    results = list(read_series(folder))
    volumes = [result for result in results if isinstance(result, Volume)]
    return volumes, [result for result in results if isinstance(result, Rejection)]


@pytest.mark.parametrize("name", ["scan.zip", "SCAN.ZIP", "Scan.Zip"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_archives_are_read_in_place_whatever_their_suffix_looks_like(tmp_path, content, name, method):
    (tmp_path / name).write_bytes(zip_of(content, method))
    (volume,), rejections = read(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert not rejections and os.listdir(tmp_path) == [name]


def test_an_archive_inside_an_archive_is_read(tmp_path, content):
    inner = {f"deep/{name}": whole for name, whole in content.items()}
    (tmp_path / "all.zip").write_bytes(zip_of({"patient/series.ZIP": zip_of(inner), "LICENSE": b"free"}))
    (volume,), (other,) = read(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert other.path == "all.zip/LICENSE"
    assert [file.name for file in list_files(tmp_path)][1] == "all.zip/patient/series.ZIP/deep/001.dcm"
    assert len({file.stamp() for file in list_files(tmp_path)}) == 7


def test_archives_nested_beyond_reason_are_refused(tmp_path, content):
    whole = zip_of(content)
    for depth in range(3):
        whole = zip_of({f"{depth}.zip": whole})
    (tmp_path / "all.zip").write_bytes(whole)
    _, (rejection,) = read(tmp_path)
    assert rejection.reason == "archives nested too deeply" and rejection.loses == "scan"


def test_an_archive_that_unpacks_to_a_hundredfold_is_refused(tmp_path):
    (tmp_path / "all.zip").write_bytes(zip_of({"bomb.zip": bytes(10_000_000)}))
    _, (rejection,) = read(tmp_path)
    assert rejection.reason == "packed beyond reason" and rejection.loses == "scan"


def test_an_encrypted_archive_is_one_loss_with_its_number_of_files(tmp_path, content):
    whole = bytearray(zip_of(content))
    for name in content:
        # Bit 0 of the flags: 8 bytes into each record of the directory.
        start = whole.rindex(name.encode()) - 46
        whole[start + 8] |= 1
    (tmp_path / "scan.zip").write_bytes(whole)
    _, (rejection,) = read(tmp_path)
    assert (rejection.path, rejection.num_files, rejection.loses) == ("scan.zip", 6, "scan")
    assert "encrypted" in rejection.reason and "password" in rejection.advice


def test_a_damaged_member_costs_its_series_by_the_checksum_of_the_archive(tmp_path, content):
    whole = bytearray(zip_of(content, zipfile.ZIP_STORED))
    place = whole.index(content["006.dcm"][-40:])
    whole[place] ^= 1
    (tmp_path / "scan.zip").write_bytes(whole)
    volumes, rejections = read(tmp_path)
    assert not volumes and rejections[0].path == "scan.zip/006.dcm" and "BadZipFile" in rejections[0].reason
    assert {rejection.loses for rejection in rejections} == {"scan"}


def test_a_directory_that_lists_fewer_members_than_it_counts_is_refused(tmp_path, content):
    whole = bytearray(zip_of(content))
    end = whole.rindex(b"PK\5\6")
    whole[end + 8] = whole[end + 10] = 7
    (tmp_path / "scan.zip").write_bytes(whole)
    _, (rejection,) = read(tmp_path)
    assert rejection.reason == "not a readable zip archive (BadZipFile)"


def test_names_packed_by_windows_read_like_any_other(tmp_path, content):
    (tmp_path / "scan.zip").write_bytes(zip_of({f"P1\\{name}": whole for name, whole in content.items()}))
    (volume,), _ = read(tmp_path)
    assert len(volume.voxels) == 6 and next(list_files(tmp_path)).name == "scan.zip/P1/001.dcm"


def test_the_layout_of_nbia_is_read(tmp_path, content):
    series = tmp_path / "LIDC-IDRI" / "LIDC-IDRI-0001" / "01-01-2000-NA-NA-30178" / "3000566.000000-NA-03192"
    series.mkdir(parents=True)
    for number, whole in enumerate(content.values(), 1):
        (series / f"1-{number:03d}.dcm").write_bytes(whole)
    (series / "LICENSE").write_text("CC BY 3.0")
    (tmp_path / "metadata.csv").write_text("Series UID,Collection\n1.2.3,LIDC-IDRI\n")
    (volume,), rejections = read(tmp_path)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())
    assert [rejection.loses for rejection in rejections] == ["nothing", "nothing"]


def test_the_layouts_of_idc_are_read(tmp_path, content):
    flat, nested = tmp_path / "flat", tmp_path / "nested" / "2e5a" / "c4b1-88"
    flat.mkdir()
    nested.mkdir(parents=True)
    for number, whole in enumerate(content.values()):
        (flat / f"{number:08x}-7c1d-4c5a-9d5e-0123456789ab.dcm").write_bytes(whole)
    for number, file in enumerate(write_series(tmp_path / "other", SeriesInstanceUID="1.2.4")):
        file.rename(flat / f"{number:08x}-ffff-4c5a-9d5e-0123456789ab.dcm")
    for number, file in enumerate(write_series(tmp_path / "other", SeriesInstanceUID="1.2.5")):
        file.rename(nested / f"{number:08x}.dcm")
    volumes, rejections = read(tmp_path)
    assert [volume.series_id for volume in volumes] == ["1.2.3", "1.2.4", "1.2.5"] and not rejections


def test_a_link_to_nowhere_is_a_lost_scan(tmp_path, content):
    (tmp_path / "001.dcm").symlink_to(tmp_path / "annex" / "001.dcm")
    _, (rejection,) = read(tmp_path)
    assert "a link to a file that is not there" in rejection.reason and rejection.loses == "scan"


def test_an_archive_that_changes_is_opened_again(tmp_path, content):
    (tmp_path / "scan.zip").write_bytes(zip_of(content))
    assert len(read(tmp_path)[0][0].voxels) == 6
    content.pop("006.dcm")
    (tmp_path / "scan.zip").write_bytes(zip_of(content))
    assert len(read(tmp_path)[0][0].voxels) == 5


@pytest.mark.parametrize(
    ("name", "whole", "reason", "loses"),
    [
        ("notes.txt", b"hello", "not a DICOM file", "nothing"),
        ("069.xml", b"<?xml version='1.0'?>", "not a DICOM file", "nothing"),
        ("photo.jpg", b"\xff\xd8\xff\xe0", "not a DICOM file", "nothing"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0\0\0", "not a DICOM file", "nothing"),
        ("001.dcm", b"", "named like a DICOM file, but is none: an empty file", "scan"),
        ("001.dcm", b"<!DOCTYPE html><html>", "is none: a web page", "scan"),
        ("001.dcm", b"version https://git-lfs.github.com/spec/v1\n", "is none: a pointer of git-lfs", "scan"),
        ("IM000001", b"\1\2\0\0garbage", "not a DICOM file, though its name could be that of a slice", "scan"),
        ("1.3.6.1.4.1.14519.5", b"\1\2\0\0garbage", "though its name could be that of a slice", "scan"),
        ("IM000001", b"", "though its name could be that of a slice: an empty file", "scan"),
        ("IM000001", b"<html>not found", "though its name could be that of a slice: a web page", "scan"),
        ("README", b"hello", "not a DICOM file", "nothing"),
        ("_SUCCESS", b"", "not a DICOM file", "nothing"),
        ("scan.tar.gz", b"\x1f\x8b\x08", "a gzip archive, which is not opened here", "scan"),
        ("scan.7z", b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "scan"),
        ("scan", b"PK\3\4", "a zip archive", "scan"),
        ("brain.mgz", b"\x1f\x8b", "archive", "scan"),
        ("brain.img", b"\0\1\2", "a volume in a format that is not read here", "scan"),
        ("DICOMDIR", None, "DICOM without an image", "nothing"),
    ],
)
def test_other_files_are_told_apart_by_what_is_lost_with_them(tmp_path, name, whole, reason, loses):
    if whole is None:
        media = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10"
        whole = bytes(128) + b"DICM" + media + b"\4\0\x30\x11CS\4\0SETA"
    (tmp_path / name).write_bytes(whole)
    _, (rejection,) = read(tmp_path)
    assert reason in rejection.reason and rejection.advice and (rejection.path, rejection.loses) == (name, loses)


@pytest.mark.parametrize("name", [".DS_Store", ".git/index", ".cache/part"])
def test_what_systems_leave_beside_a_series_does_it_no_harm(tmp_path, name):
    write_series(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\0\0\0\1Bud1")
    (volume,), (rejection,) = read(tmp_path)
    assert volume.voxels.shape[0] == 6 and (rejection.path, rejection.loses) == (name, "nothing")


def test_xml_is_told_to_be_annotations(tmp_path):
    (tmp_path / "069.xml").write_bytes(b"\xef\xbb\xbf<LidcReadMessage/>")
    _, (rejection,) = read(tmp_path)
    assert "XML, read as annotations" in rejection.advice
