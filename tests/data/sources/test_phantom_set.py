import json

import numpy as np
import pydicom
import pytest

from dinox_hf.data.readers.dicom import read_dicom_series
from dinox_hf.data.readers.files import list_files
from dinox_hf.data.sources import phantom_set
from dinox_hf.data.sources.lidc_idri import read_annotations
from dinox_hf.data.sources.phantom import make_patient
from dinox_hf.data.sources.phantom_set import PhantomConfig, make_phantom_set
from dinox_hf.data.volume import Rejection, Volume

CONFIG = PhantomConfig(patients=2, size=96, seed=7)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom") / "raw"
    assert make_phantom_set(out, CONFIG, num_workers=1)
    return out


def test_the_series_read_back_with_the_values_that_were_drawn(phantom):
    results = [*read_dicom_series(phantom)]
    assert not [each for each in results if isinstance(each, Rejection) and each.loses == "scan"]
    volumes = sorted((each for each in results if isinstance(each, Volume)), key=lambda volume: volume.patient_id)
    assert [volume.patient_id for volume in volumes] == ["PHANTOM-0001", "PHANTOM-0002"]
    for number, volume in enumerate(volumes, start=1):
        patient = make_patient(CONFIG.seed, number, CONFIG.size)
        np.testing.assert_array_equal(volume.voxels, patient.voxels_hu)
        np.testing.assert_allclose(volume.spacing_mm, patient.scan.grid.spacing_mm, atol=1e-6)
        np.testing.assert_allclose(volume.z_mm, patient.scan.grid.axis(0), atol=1e-6)


def test_outlines_cluster_to_the_nodules_that_were_drawn(phantom):
    record = json.loads((phantom / "phantom.json").read_text())
    for truth in record["patients"]:
        (volume,) = (x for x in read_dicom_series(phantom / truth["patient_id"]) if isinstance(x, Volume))
        (annotation,) = read_annotations(list_files(phantom / truth["patient_id"]))
        findings = annotation.findings(volume)
        assert not findings.warnings and len(findings.nodules) == len(truth["nodules"])
        kinds = [mark["kind"] for mark in findings.marks]
        assert kinds.count("small_nodule") == annotation.num_small_nodules >= len(truth["small_nodules"])
        assert kinds.count("non_nodule") == annotation.num_non_nodules
        for row in findings.nodules:
            x, y, z, _ = volume.affine_lps @ [*row["centre_index"][::-1], 1]
            gaps = [np.linalg.norm(np.subtract(nodule["centre_mm"], (z, y, x))) for nodule in truth["nodules"]]
            nodule = truth["nodules"][int(np.argmin(gaps))]
            assert min(gaps) < 5
            # Pixels of 3 mm: 7 mm are hard to outline to better than a fifth.
            assert row["diameter_mm"] == pytest.approx(nodule["diameter_mm"], rel=0.2)
            assert abs(np.mean(row["malignancy"]) - (4.1 if nodule["is_malignant"] else 1.9)) < 1.6


def test_files_are_ct_images_in_the_layout_of_tcia_and_in_no_order(phantom):
    files = sorted(phantom.glob("PHANTOM-0001/*/*/*.dcm"))
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    assert files[0].parent.name == headers[0].SeriesInstanceUID
    assert files[0].parent.parent.name == headers[0].StudyInstanceUID
    assert {header.SOPClassUID.name for header in headers} == {"CT Image Storage"}
    assert len({header.SOPInstanceUID for header in headers}) == len(files)
    assert all(header.SOPInstanceUID.is_valid for header in headers)
    heights = [header.ImagePositionPatient[2] for header in headers]
    assert heights not in (sorted(heights), sorted(heights, reverse=True))


@pytest.mark.long
def test_two_workers_write_the_same_bytes_as_one(phantom, tmp_path):
    assert make_phantom_set(tmp_path / "raw", CONFIG, num_workers=2)
    files = [path.relative_to(phantom) for path in sorted(phantom.rglob("*")) if path.is_file()]
    assert files == [p.relative_to(tmp_path / "raw") for p in sorted((tmp_path / "raw").rglob("*")) if p.is_file()]
    assert all((phantom / file).read_bytes() == (tmp_path / "raw" / file).read_bytes() for file in files)


def test_a_finished_set_is_left_alone_and_another_one_is_refused(phantom):
    assert not make_phantom_set(phantom, CONFIG)
    with pytest.raises(ValueError, match=r"'seed': 8.*'seed': 7.*another folder"):
        make_phantom_set(phantom, PhantomConfig(patients=2, size=96, seed=8))


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"new or empty.*thesis\.txt.*another folder"):
        make_phantom_set(tmp_path, CONFIG)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch):
    def fail_at_second(folder, config, number):
        if number == 2:
            raise OSError("disk full")
        (folder / f"PHANTOM-{number:04d}").mkdir()
        return {}

    monkeypatch.setattr(phantom_set, "write_patient", fail_at_second)
    with pytest.raises(OSError, match="disk full"):
        make_phantom_set(tmp_path / "raw", CONFIG, num_workers=1)
    assert not [*(tmp_path / "raw").iterdir()]


def test_what_an_interrupted_run_left_is_cleared(tmp_path, monkeypatch):
    (tmp_path / ".making" / "PHANTOM-0002").mkdir(parents=True)
    (tmp_path / "PHANTOM-0001").mkdir()
    monkeypatch.setattr(phantom_set, "write_patients", lambda *_: iter([]))
    assert make_phantom_set(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["phantom.json"]


def test_impossible_settings_name_the_value_and_the_range():
    with pytest.raises(ValueError, match="patients between 1 and 9999; found 0"):
        PhantomConfig(patients=0)
