"""Names, birth dates and institutions are planted wherever DICOM has room for text; none may come out again."""

import io
import pickle

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary

from dinox_hf.data.readers.files import list_files
from dinox_hf.data.readers.series import index_series, read_entry, read_series
from dinox_hf.data.volume import Rejection, Volume
from tests.data.encodings import enhanced_dataset
from tests.data.scans import slice_dataset, sphere_hu

PLANTED = ("Doe^Jane", "St Elsewhere", "19700101")
TEXT = "Doe^Jane St Elsewhere 19700101"
# What places and scales pixels must stay what it is; identifiers of patient, study and series are pseudonyms in public
# collections and are hashed by the builder in others.
KEPT = {"PatientID", "Modality", "ImageType", "PhotometricInterpretation", "SpecificCharacterSet", "FrameType"}
TEXT_TYPES = {*["LO", "SH", "PN", "LT", "ST", "UT", "UC", "CS", "DA", "AE", "AS", "TM", "DT", "UR"]}


def plant(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """Write an identity into every text of the dictionary and into private ones, here and in sequences."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        is_text = vr in TEXT_TYPES and keyword and keyword not in KEPT and 0x0008 <= tag >> 16 < 0x7FE0
        if is_text and tag & 0xFFFF and not 0x1000 <= tag >> 16 <= 0x1FFF:
            planted = {"DA": "19700101", "PN": "Doe^Jane", "AE": "St Elsewhere"}.get(
                vr, TEXT[:16] if vr == "SH" else TEXT
            )
            dataset.add_new(tag, "LO" if vr in ("CS", "AS", "TM", "DT", "AE", "UR") else vr, planted)
    block = dataset.private_block(0x0009, TEXT, create=True)
    for element, vr in enumerate(("LO", "PN", "UT", "UN"), 1):
        block.add_new(element, vr, TEXT.encode() if vr == "UN" else TEXT)
    dataset.file_meta.SourceApplicationEntityTitle = "St Elsewhere"
    dataset.file_meta.ImplementationVersionName = "Doe^Jane"
    return dataset


@pytest.fixture(scope="module")
def slices() -> list[bytes]:
    files = []
    with pydicom.config.disable_value_validation():
        for index, pixels in enumerate(sphere_hu()):
            file = io.BytesIO()
            plant(slice_dataset(pixels, -30 + 2.5 * index, index)).save_as(file, enforce_file_format=True)
            files.append(file.getvalue())
    return files


def write(folder, files: list[bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for number, whole in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(whole)


def check_silence(folder) -> list:
    """Nothing that leaves the reader, index included, holds what was planted; returns the results."""
    scans, rejections = index_series(map(read_entry, list_files(folder)))
    results = list(read_series(folder))
    told = repr([vars(result) for result in results]) + repr(scans) + repr(rejections)
    told += pickle.dumps([result for result in results if isinstance(result, Rejection)]).decode("latin-1")
    assert results and not [word for word in PLANTED if word in told]
    return results


def test_a_volume_holds_nothing_of_what_was_planted_in_every_text(tmp_path, slices):
    assert sum(slices[0].count(word.encode()) for word in PLANTED) > 2000
    write(tmp_path / "raw", slices)
    (volume,) = check_silence(tmp_path / "raw")
    assert isinstance(volume, Volume)
    np.testing.assert_array_equal(volume.voxels, sphere_hu())


def test_a_kernel_that_is_a_name_is_compared_but_told_to_nobody(tmp_path, slices):
    write(tmp_path / "raw", [slices[0].replace(b"Doe^Jane", b"Roe^Jack"), *slices[1:]])
    scans, rejections = index_series(map(read_entry, list_files(tmp_path / "raw")))
    assert not scans and "found another and another" in rejections[0].reason
    assert not [word for word in (*PLANTED, "Roe") if word in repr(rejections)]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda files: files[:2] + files[3:],
        lambda files: [*files[:5], files[5][:-300]],
        lambda files: [*files[:5], files[5][:3000]],
        lambda files: [*files[:5], b"Doe^Jane St Elsewhere 19700101"],
        lambda files: [*files[:5], files[4][:-2] + b"\1\1"],
        *(
            lambda files, old=old, new=new: [whole.replace(old, new) for whole in files]
            for old, new in (
                (b"CS\x02\0CT", b"CS\x08\0Doe^Jane"),
                (b"CS\x0c\0MONOCHROME2 ", b"CS\x08\0Doe^Jane"),
                (b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x08\0Doe^Jane"),
                (b"S\x10DS\x04\x001.0 ", b"S\x10DS\x08\0Doe^Jane"),
                (b"\x20\0\x32\0DS", b"\x20\0\x33\0DS"),
                (b"DICM", b"Doe^"),
            )
        ),
    ],
)
def test_no_rejection_quotes_what_was_planted(tmp_path, slices, spoil):
    write(tmp_path / "raw", spoil(slices))
    results = check_silence(tmp_path / "raw")
    assert any(isinstance(result, Rejection) for result in results)


def test_a_multi_frame_file_keeps_its_secrets(tmp_path):
    with pydicom.config.disable_value_validation():
        dataset = enhanced_dataset()
        for group in dataset.PerFrameFunctionalGroupsSequence:
            group.PlanePositionSequence[0].PatientName = "Doe^Jane"
            group.FrameContentSequence = [pydicom.Dataset()]
            group.FrameContentSequence[0].FrameComments = TEXT
        (tmp_path / "raw").mkdir()
        plant(dataset).save_as(tmp_path / "raw" / "all.dcm", enforce_file_format=True)
    (result,) = check_silence(tmp_path / "raw")
    assert b"Doe^Jane" in (tmp_path / "raw" / "all.dcm").read_bytes()
    assert isinstance(result, Rejection) or len(result.voxels) == 6
