"""The real LIDC scans of the folder in DINOX_REAL_DATA, read, built and loaded back."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dinox_hf.data.builder import build_dataset
from dinox_hf.data.readers.dicom import read_dicom_series
from dinox_hf.data.readers.dicom_header import read_header
from dinox_hf.data.readers.dicom_pixels import read_slice_hu
from dinox_hf.data.readers.files import list_files
from dinox_hf.data.sources.lidc_idri import read_annotations
from dinox_hf.data.sources.lidc_masks import fill_outline, find_slice
from dinox_hf.data.volume import Rejection, Volume
from dinox_hf.hub.clean_process import run_in_clean_process

pytestmark = pytest.mark.real_data

# What someone without our package types: every pixel of the set, and the nodule table, into plain arrays.
STRANGER = """
import sys
import numpy as np
from datasets import load_dataset
folder, cache, out = sys.argv[1:]
slices = load_dataset(folder, split="train", cache_dir=cache).with_format("arrow")
pixels = [np.stack(row["image"][0].values.to_numpy(zero_copy_only=False)) for row in slices.iter(1)]
plain = load_dataset(folder, split="train", cache_dir=cache)[7]
assert (np.array(plain["image"], dtype=np.int16) == pixels[7]).all() and plain["padding_hu"] == -2048
assert load_dataset(folder, "nodules", split="train", cache_dir=cache)[0]["malignancy"] == [5, 5, 5, 4]
np.save(out, np.stack(pixels))
"""


@pytest.fixture(scope="module")
def lidc_1(real_data, tmp_path_factory) -> Path:
    """LIDC-IDRI-0001 as TCIA ships it: 133 DICOM files and the XML."""
    folder = tmp_path_factory.mktemp("LIDC-IDRI-0001")
    source = real_data / "chest_ct" / "LIDC-IDRI-0001"
    with zipfile.ZipFile(source / "dicom.zip") as archive:
        archive.extractall(folder)
    (folder / "069.xml").write_bytes((source / "069.xml").read_bytes())
    return folder


@pytest.fixture(scope="module")
def volume_1(lidc_1) -> Volume:
    return next(read_dicom_series(lidc_1))


@pytest.fixture(scope="module")
def independent_hu(lidc_1) -> np.ndarray:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(lidc_1)))
    return sitk.GetArrayFromImage(reader.Execute())


def test_0001_has_133_slices_in_z_order_2_5_mm_apart(volume_1):
    assert volume_1.voxels.shape == (133, 512, 512)
    np.testing.assert_allclose(np.diff(volume_1.z_mm), 2.5)
    assert volume_1.spacing_mm == (2.5, 0.703125, 0.703125)
    assert volume_1.z_mm[0] == -340.0


def test_0001_stores_minus_2048_outside_the_field_of_view_not_the_minus_2000_it_declares(volume_1):
    assert volume_1.padding_hu == -2048
    assert (volume_1.voxels[:, [0, 0, -1, -1], [0, -1, 0, -1]] == -2048).all()


def test_0001_keeps_every_hu_through_the_set_for_someone_without_our_package(lidc_1, independent_hu, tmp_path):
    report = build_dataset(lidc_1, tmp_path / "set")
    assert report["splits"]["train"]["num_slices"] == 133 and not report["warnings"] and not report["rejections"]
    shard = tmp_path / "set" / "slices" / "train-00000-of-00001.parquet"
    assert shard.stat().st_size / 133 <= 250_000, "bytes per slice"
    (tmp_path / "stranger.py").write_text(STRANGER)
    run_in_clean_process(tmp_path / "stranger.py", tmp_path / "set", tmp_path / "cache", tmp_path / "hu.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "hu.npy"), independent_hu)


def test_0001_outlines_lie_on_soft_tissue_as_column_row_and_on_lung_if_swapped(lidc_1, volume_1):
    (annotation,) = read_annotations(list_files(lidc_1))
    as_column_row, swapped = [], []
    for nodule in annotation.nodules:
        for outline in nodule.drawings:
            index = find_slice(volume_1, outline.slice_uid, outline.z_mm)
            for points, values in ((outline.points, as_column_row), (outline.points[:, ::-1], swapped)):
                (top, left), inside, _ = fill_outline(points)
                box = volume_1.voxels[index, top : top + inside.shape[0], left : left + inside.shape[1]]
                values.append(box[inside].mean())
    assert len(as_column_row) > 20
    assert np.mean(as_column_row) > -200
    assert np.mean(swapped) < -600


def test_0001_has_one_nodule_of_four_readers(lidc_1, volume_1):
    (annotation,) = read_annotations(list_files(lidc_1))
    findings = annotation.findings(volume_1)
    (nodule,) = findings.nodules
    assert not findings.warnings and len(findings.marks) == 22
    assert nodule["num_readers"] == 4 and nodule["malignancy"] == [5, 5, 5, 4]
    assert volume_1.z_mm[[nodule["first_slice"], nodule["last_slice"]]].tolist() == [-125.0, -107.5]
    assert 20 < nodule["diameter_mm"] < 30
    assert (annotation.num_small_nodules, annotation.num_non_nodules) == (9, 13)


def test_0002_warns_about_the_nodule_that_its_twelve_slices_cut(real_data, tmp_path):
    # Read inside its archive, as it was delivered.
    report = build_dataset(real_data / "chest_ct" / "LIDC-IDRI-0002_12slices", tmp_path / "set")
    assert report["num_slices"] == 12 and report["num_nodules"] == 1
    assert len(report["warnings"]) == 3
    assert report["warnings"][2].startswith("71.xml: 37 of 51 marks of small nodules and non-nodules lie on slices")
    assert "23 of 30 outlines" in report["warnings"][0] and "absent" in report["warnings"][0]
    assert json.loads((tmp_path / "set" / "ingest_report.json").read_text())["series"][0]["padding_hu"] == -3024


def test_eight_transfer_syntaxes_of_one_slice_decode_to_the_same_hu(real_data):
    files = list(list_files(real_data / "dicom_oddities" / "chest_slice_transfer_syntaxes"))
    slices = [read_slice_hu(*read_header(file)) for file in files]
    assert len(slices) == 8
    for slice_hu in slices:
        np.testing.assert_array_equal(slice_hu, slices[0])
    assert (slices[0].min(), slices[0].max()) == (-3024, 1378)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("gantry_tilt", "gantry tilt of 14.0 degrees"),
        ("missing_slice", "gaps from 5.00 to 10.00 mm between 4 slices"),
        ("MR_truncated.dcm", "modality MR"),
    ],
)
def test_real_oddities_are_refused_with_their_reason(real_data, folder, reason):
    (rejection,) = read_dicom_series(real_data / "dicom_oddities" / folder)
    assert isinstance(rejection, Rejection) and reason in rejection.reason and rejection.advice


def test_two_kernels_of_one_acquisition_are_two_series_of_one_patient_without_padding(real_data):
    entries = list(read_dicom_series(real_data / "chest_ct" / "Lung_Dx-A0002"))
    volumes = [entry for entry in entries if isinstance(entry, Volume)]
    assert [len(volume.voxels) for volume in volumes] == [30, 16]
    assert {(volume.patient_id, volume.padding_hu) for volume in volumes} == {("Lung_Dx-A0002", None)}
