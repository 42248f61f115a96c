"""SEG and SR series, written with highdicom, give the nodules that the XML gives."""

import itertools
import shutil

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest

from dinox_hf.data.builder import build_dataset
from dinox_hf.data.readers.dicom import read_dicom_series
from dinox_hf.data.readers.files import RawFile, list_files
from dinox_hf.data.schema import CHARACTERISTICS
from dinox_hf.data.sources.lidc_codes import Code, characteristic_of, rating_of
from dinox_hf.data.sources.lidc_idri import read_annotations
from dinox_hf.data.sources.lidc_xml import read_xml
from dinox_hf.data.sources.phantom_set import PhantomConfig, make_phantom_set
from dinox_hf.data.volume import Rejection, Volume
from tests.data.scans import nodule_xml, square, write_series, write_xml
from tests.data.sources.lidc_series import CONCEPTS, OBSERVER, rating_code, write_annotation


def roi(index, first, last, inclusion=True):
    return (-30 + 2.5 * index, f"1.2.3.{index}", square(first, last), inclusion)


SESSIONS = (
    nodule_xml([roi(1, 2, 12), roi(1, 5, 8, inclusion=False), roi(2, 3, 11)], 5, "Nodule 001")
    + nodule_xml([roi(5, 3, 8)], 1, "Nodule 002"),
    nodule_xml([roi(1, 3, 13), roi(2, 3, 13)], 2, "IL057_127364"),
    nodule_xml([roi(5, 4, 9)], 3, "MI014_12127") + nodule_xml([roi(0, 14, 18)], 3, "MI014_12130"),
    nodule_xml([roi(2, 2, 12)], 4, "0"),
)


STUDY = {
    "PatientBirthDate": "",
    "PatientSex": "O",
    "StudyDate": "20000101",
    "StudyTime": "000000",
    "StudyID": "1",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "SliceThickness": 2.5,
    "PositionReferenceIndicator": "",
    "SeriesNumber": 1,
}


def slices_of(folder):
    """CT data sets from feet to head, without their pixels."""
    datasets = [pydicom.dcmread(file, stop_before_pixels=True) for file in folder.rglob("*.dcm")]
    for dataset in datasets:
        # LIDC-IDRI-0001 has another one in every slice, which highdicom does not accept.
        dataset.FrameOfReferenceUID = "1.2.9"
    return sorted(datasets, key=lambda dataset: dataset.ImagePositionPatient[2])


def read_volume(folder):
    return next(volume for volume in read_dicom_series(folder) if isinstance(volume, Volume))


@pytest.fixture
def scan(tmp_path):
    """A CT series and its XML, each in a folder; the folder for SEG and SR is empty."""
    for name in ("ct", "xml", "dicom"):
        (tmp_path / name).mkdir()
    write_series(tmp_path / "ct", **STUDY)
    write_xml(tmp_path / "xml" / "069.xml", SESSIONS)
    return tmp_path


def write_dicom(scan, **options):
    (annotation,) = read_annotations(list_files(scan / "xml"))
    return write_annotation(scan / "dicom", slices_of(scan / "ct"), annotation.nodules, **options)


def nodules_of(folder, volume):
    (annotation,) = read_annotations(list_files(folder))
    findings = annotation.findings(volume)
    assert not findings.warnings
    return findings.nodules


def assert_same_nodules(found, expected):
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_array_equal(ours["mask"], theirs["mask"])
        assert ours | {"mask": 0} == theirs | {"mask": 0}


@pytest.mark.parametrize("composite", [False, True])
def test_both_formats_give_the_same_nodules(scan, composite):
    """Grouping, order of readers, ratings, masks and diameters; with an exclusion, and five files or one."""
    write_dicom(scan, composite=composite)
    volume = read_volume(scan / "ct")
    nodules = nodules_of(scan / "xml", volume)
    assert [row["num_readers"] for row in nodules] == [1, 3, 2]
    assert_same_nodules(nodules_of(scan / "dicom", volume), nodules)


def test_the_xml_comes_first_and_the_series_is_one_annotation(scan):
    write_dicom(scan)
    first, second = read_annotations([*list_files(scan / "dicom"), *list_files(scan / "xml")])
    assert (first.path, second.path) == ("069.xml", "seg000.dcm")
    assert first.series_id == second.series_id == "1.2.3"
    assert second.slice_uids == first.slice_uids == {f"1.2.3.{index}" for index in (0, 1, 2, 5)}
    assert len(second.other_paths) == 11 and "report005.dcm" in second.other_paths


def test_copies_of_files_count_once(scan):
    write_dicom(scan)
    shutil.copytree(scan / "dicom", scan / "dicom" / "copy")
    write_dicom(scan, composite=True, stem="all_")
    volume = read_volume(scan / "ct")
    assert_same_nodules(nodules_of(scan / "dicom", volume), nodules_of(scan / "xml", volume))


def test_frames_find_their_slice_by_position_where_uids_are_absent(scan):
    for file in write_dicom(scan):
        dataset = pydicom.dcmread(file)
        if dataset.Modality == "SEG":
            for group in dataset.PerFrameFunctionalGroupsSequence:
                del group.DerivationImageSequence
            dataset.save_as(file)
    volume = read_volume(scan / "ct")
    assert_same_nodules(nodules_of(scan / "dicom", volume), nodules_of(scan / "xml", volume))


def test_no_person_stays_in_an_annotation(scan):
    write_dicom(scan)
    (annotation,) = read_annotations(list_files(scan / "dicom"))
    text = repr([vars(annotation), *map(vars, annotation.nodules)])
    assert OBSERVER.split("^")[0] not in text and "Jane" not in text


def test_frames_on_absent_slices_are_warned_about(scan):
    write_dicom(scan)
    (scan / "ct" / "001.dcm").unlink()  # the last slice, with the nodules of readers 1 and 3
    (annotation,) = read_annotations(list_files(scan / "dicom"))
    findings = annotation.findings(read_volume(scan / "ct"))
    assert len(findings.nodules) == 2
    assert findings.warnings[0] == (
        "seg000.dcm: 1 of 1 outlines of reader 1's outlined nodule 2 lie on slices that are absent from the scan"
    )


def test_slices_of_another_size_take_no_frame(scan):
    write_dicom(scan)
    (annotation,) = read_annotations(list_files(scan / "dicom"))
    write_series(scan / "other", np.zeros((6, 12, 12), np.int16), **STUDY)
    findings = annotation.findings(read_volume(scan / "other"))
    assert not findings.nodules and "drawn on 24 x 20 pixels, while the scan has 12 x 12" in findings.warnings[0]


def test_a_nodule_without_report_keeps_its_mask_and_says_so(scan):
    write_dicom(scan)
    (scan / "dicom" / "report003.dcm").unlink()
    (annotation,) = read_annotations(list_files(scan / "dicom"))
    findings = annotation.findings(read_volume(scan / "ct"))
    assert [row["malignancy"] for row in findings.nodules] == [[3], [5, 2, 4], [1, None]]
    assert findings.warnings == ["seg000.dcm: 1 of 6 segmented nodules have no report with ratings"]


def test_a_report_without_one_of_the_ratings_says_so(scan):
    path = next(path for path in write_dicom(scan) if path.name == "report002.dcm")
    path.write_bytes(path.read_bytes().replace(b"RID36042", b"RID00000").replace(b"Malignancy", b"Malicegone"))
    (annotation,) = read_annotations(list_files(scan / "dicom"))
    findings = annotation.findings(read_volume(scan / "ct"))
    assert [row["malignancy"] for row in findings.nodules] == [[3], [5, None, 4], [1, 3]]
    assert findings.warnings == ["seg000.dcm: reader 2's outlined nodule 1 has no rating of malignancy"]


def test_a_report_without_its_segmentation_is_a_loss(scan):
    write_dicom(scan)
    (scan / "dicom" / "seg004.dcm").unlink()
    rejection, annotation = read_annotations(list_files(scan / "dicom"))
    assert (rejection.path, rejection.loses) == ("report004.dcm", "annotations")
    assert "segmentation is not in the input" in rejection.reason and len(annotation.nodules) == 5


def rewrite(path, **changes):
    dataset = pydicom.dcmread(path)
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(path)


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "no pixels": lambda path: path.write_bytes(path.read_bytes()[: path.read_bytes().rindex(b"\xe0\x7f\x10\x00")]),
    "too many frames": lambda path: rewrite(path, NumberOfFrames=10**6),
    "no places": lambda path: rewrite(path, PerFrameFunctionalGroupsSequence=[]),
    "fractions": lambda path: rewrite(path, SegmentationType="FRACTIONAL"),
    "no scan": lambda path: rewrite(path, ReferencedSeriesSequence=[]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_segmentation_becomes_a_reason(scan, damage):
    write_dicom(scan, with_reports=False)
    DAMAGES[damage](scan / "dicom" / "seg002.dcm")
    rejection, annotation = read_annotations(list_files(scan / "dicom"))
    assert isinstance(rejection, Rejection) and rejection.path == "seg002.dcm"
    assert rejection.loses == "annotations" and "DICOM segmentation" in rejection.reason
    assert len(annotation.nodules) == 5


def test_several_sop_classes_are_none_of_ours(scan):
    """A flipped byte makes `\\` of a dot, and two UIDs of one."""
    path, *_ = write_dicom(scan, with_reports=False)
    data = path.read_bytes()
    place = data.index(b"1.2.840.10008.5.1.4.1.1.66.4", data.index(b"\x08\x00\x16\x00"))
    path.write_bytes(data[: place + 3] + b"\\" + data[place + 4 :])
    (annotation,) = read_annotations(list_files(scan / "dicom"))
    assert len(annotation.nodules) == 5


def test_turned_frames_are_refused(scan):
    path, *_ = write_dicom(scan, composite=True, with_reports=False)
    dataset = pydicom.dcmread(path)
    plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [1, 0, 0, 0, -1, 0]
    dataset.save_as(path)
    (rejection,) = read_annotations(list_files(scan / "dicom"))
    assert "should lie like the slices" in rejection.reason and rejection.loses == "annotations"


def test_segmentations_and_reports_of_others_are_passed_over(scan):
    for path in write_dicom(scan):
        dataset = pydicom.dcmread(path)
        if dataset.Modality == "SEG":
            dataset.SegmentSequence[0].SegmentLabel = "Nodule 1 - Annotation Doe Jane"
        else:
            _rename_concepts(dataset)
        dataset.save_as(path)
    (scan / "dicom" / "notes.txt").write_text("no DICOM")
    assert list(read_annotations(list_files(scan / "dicom"))) == []
    assert list(read_annotations(list_files(scan / "ct"))) == []


def _rename_concepts(dataset):
    for item in dataset.get("ContentSequence", ()):
        if item.ValueType == "CODE":
            item.ConceptNameCodeSequence[0].CodeValue = "1"
            item.ConceptNameCodeSequence[0].CodeMeaning = "Something else"
        _rename_concepts(item)


def test_no_mutant_of_a_file_is_a_crash(scan):
    """Single bytes changed anywhere in a segmentation and in a report."""
    volume = read_volume(scan / "ct")
    for path in write_dicom(scan)[:2]:
        data = path.read_bytes()
        rng = np.random.default_rng(0)
        for mutant, (place, byte) in enumerate(zip(rng.integers(132, len(data), 60), rng.bytes(60), strict=True)):
            (scan / "mutants").mkdir(exist_ok=True)
            changed = bytearray(data)
            changed[place] = byte
            (scan / "mutants" / f"{mutant}.dcm").write_bytes(changed)
            for entry in read_annotations([RawFile(scan / "mutants", f"{mutant}.dcm")]):
                if not isinstance(entry, Rejection):
                    entry.findings(volume)
        shutil.rmtree(scan / "mutants")


def test_a_set_built_from_dicom_equals_one_built_from_xml(scan, tmp_path):
    """As Imaging Data Commons delivers: all in one folder, no XML. Marks are only in the XML."""
    for name in ("raw_dicom", "raw_xml"):
        shutil.copytree(scan / "ct", tmp_path / name / "ct")
    write_dicom(scan)
    shutil.copytree(scan / "dicom", tmp_path / "raw_dicom" / "annotations")
    shutil.copytree(scan / "xml", tmp_path / "raw_xml" / "annotations")
    reports = {name: build_dataset(tmp_path / f"raw_{name}", tmp_path / f"set_{name}") for name in ("dicom", "xml")}
    nodules = {name: pq.read_table(next((tmp_path / f"set_{name}" / "nodules").glob("*.parquet"))) for name in reports}
    assert len(nodules["xml"]) == 3 and nodules["dicom"].equals(nodules["xml"])
    assert reports["dicom"]["warnings"] == reports["dicom"]["rejections"] == []
    assert reports["dicom"]["series"][0]["annotation"] == "annotations/seg000.dcm"


@pytest.mark.parametrize("name", CHARACTERISTICS)
def test_every_step_of_every_scale_is_read_from_its_code_and_from_its_words(name):
    value, scheme, meaning = CONCEPTS[name]
    assert characteristic_of(Code(value, scheme, meaning)) == name
    assert characteristic_of(Code("?", "?", meaning)) == name
    largest = {"internal_structure": 4, "calcification": 6}.get(name, 5)
    for rating in range(1, largest + 1):
        value, scheme, meaning = rating_code(name, rating)
        assert rating_of(name, Code(value, scheme, "?")) == rating
        assert rating_of(name, Code("?", "?", meaning)) == rating


def test_unknown_codes_are_no_rating():
    assert characteristic_of(Code("G-D705", "SRT", "Volume")) is None
    assert rating_of("malignancy", Code("904", "99OTHER", "maybe")) is None
    assert rating_of("texture", Code("", "", "")) is None


@pytest.mark.filterwarnings("ignore:The string .PHANTOM:UserWarning")
def test_a_phantom_gives_the_same_nodules_from_both_formats(tmp_path):
    """Four readers who all number their nodules alike: names tell nothing about who is who."""
    make_phantom_set(tmp_path / "raw", PhantomConfig(patients=1, size=96, seed=3), num_workers=1)
    volume = read_volume(tmp_path / "raw")
    xml = next(file for file in list_files(tmp_path / "raw") if file.name.endswith(".xml"))
    (tmp_path / "dicom").mkdir()
    nodules = read_xml(xml).nodules
    write_annotation(tmp_path / "dicom", slices_of(tmp_path / "raw" / "PHANTOM-0001"), nodules)
    expected = read_xml(xml).findings(volume).nodules
    assert max(row["num_readers"] for row in expected) == 4
    assert_same_nodules(nodules_of(tmp_path / "dicom", volume), expected)


@pytest.mark.real_data
@pytest.mark.parametrize("patient", ["LIDC-IDRI-0001", "LIDC-IDRI-0002_12slices"])
def test_a_real_scan_gives_the_same_nodules_from_both_formats(real_data, tmp_path, patient):
    folder = real_data / "chest_ct" / patient
    shutil.unpack_archive(folder / "dicom.zip", tmp_path / "ct")
    volume = read_volume(tmp_path / "ct")
    xml = read_xml(next(file for file in list_files(folder) if file.name.endswith(".xml")))
    (tmp_path / "dicom").mkdir()
    write_annotation(tmp_path / "dicom", slices_of(tmp_path / "ct"), xml.nodules)
    assert_same_nodules(nodules_of(tmp_path / "dicom", volume), xml.findings(volume).nodules)


@pytest.mark.real_data
def test_a_real_segmentation_of_a_liver_is_passed_over(real_data):
    files = list_files(real_data / "dicom_oddities" / "ct_3slices_with_dicom_seg")
    assert list(itertools.islice(read_annotations(files), 1)) == []
