import dataclasses

import numpy as np
import pytest

from dinox_hf.data.readers.dicom import read_dicom_series
from dinox_hf.data.readers.files import RawFile, list_files
from dinox_hf.data.schema import MARK_FEATURES, mark_table, nodule_table
from dinox_hf.data.sources.lidc_idri import collection_of, read_annotations
from dinox_hf.data.sources.lidc_masks import BoxMask, consensus, fill_outline
from dinox_hf.data.sources.lidc_readers import group_readers
from dinox_hf.data.volume import Rejection, Volume
from tests.data.scans import nodule_xml, square, write_series, write_xml


def read_rows(folder, sessions, **options):
    write_series(folder)
    write_xml(folder / "069.xml", sessions, **options)
    volume = next(read_dicom_series(folder))
    (annotation,) = read_annotations(list_files(folder))
    findings = annotation.findings(volume)
    return findings.nodules, findings.warnings


def uid(index):
    return f"1.2.3.{index}"


def z_mm(index):
    return -30 + 2.5 * index


def roi(index, first, last, inclusion=True):
    return (z_mm(index), uid(index), square(first, last), inclusion)


def test_the_border_is_outside_the_nodule():
    start, inside, border = fill_outline(np.array(square(3, 7)))
    assert start.tolist() == [3, 3]
    assert inside.sum() == 9 and inside[1:4, 1:4].all()
    assert border.sum() == 16


def test_a_diagonal_border_holds_and_corner_points_are_joined():
    diamond = np.array([(3, 0), (6, 3), (3, 6), (0, 3)])
    _, inside, border = fill_outline(diamond)
    assert border.sum() == 12
    assert inside.sum() == 13 and inside[3, 1:6].all() and not inside[0].any()


def test_x_is_the_column_and_y_the_row(tmp_path):
    wide = [(x, y) for x, y in square(2, 6)]
    wide = [(x if x < 6 else 12, y) for x, y in wide]
    (row,), _ = read_rows(tmp_path, [nodule_xml([(z_mm(1), uid(1), wide)])])
    assert row["mask"].shape == (1, 3, 9)
    assert row["mask_start"] == [1, 3, 3]
    assert row["centre_index"] == [1.0, 4.0, 7.0]


def test_diameter_is_that_of_the_largest_slice(tmp_path):
    (row,), _ = read_rows(tmp_path, [nodule_xml([roi(1, 4, 8), roi(2, 3, 9), roi(3, 4, 8)])])
    assert row["diameter_mm"] == pytest.approx(2 * np.sqrt(25 * 0.8 * 0.7 / np.pi))
    assert (row["first_slice"], row["last_slice"]) == (1, 3)
    assert row["nodule_id"] == "1.2.3/1" and row["patient_id"] == "P1"


def test_an_exclusion_takes_its_inside_and_its_border_away(tmp_path):
    for number, rois in enumerate(
        ([roi(1, 2, 12), roi(1, 5, 9, inclusion=False)], [roi(1, 5, 9, inclusion=False), roi(1, 2, 12)])
    ):
        (row,), _ = read_rows(tmp_path / str(number), [nodule_xml(rois)])
        assert row["mask"].sum() == 81 - 25
        assert row["mask"][0, 2:7, 2:7].sum() == 0


def test_readers_who_overlap_share_a_nodule_with_all_their_ratings(tmp_path):
    sessions = [
        nodule_xml([roi(1, 3, 9)], malignancy=5),
        nodule_xml([roi(1, 4, 10)], malignancy=2, name="other"),
        nodule_xml([roi(4, 3, 9)], malignancy=1),
        "",
    ]
    rows, _ = read_rows(tmp_path, sessions)
    assert [row["num_readers"] for row in rows] == [2, 1]
    assert [row["malignancy"] for row in rows] == [[5, 2], [1]]
    assert rows[0]["internal_structure"] == [3, 3] and rows[0]["texture"] == [5, 5]
    # Half of two readers is one: the consensus is the union of the squares 4..8 and 5..9.
    assert rows[0]["mask"].sum() == 25 + 25 - 16


def test_two_nodules_of_one_reader_stay_two_under_anothers_large_outline():
    def box(start, size):
        return BoxMask(np.array([0, 0, start]), np.ones((1, 4, size), bool))

    masks = [box(0, 4), box(5, 4), box(0, 12), None]
    assert group_readers([0, 0, 1, 2], masks) == [[0, 2], [1]]


def test_consensus_needs_two_of_four():
    masks = [BoxMask(np.array([0, 0, start]), np.ones((1, 1, 2), bool)) for start in (0, 1, 2, 9)]
    result = consensus(masks)
    assert result.start.tolist() == [0, 0, 1] and result.voxels.ravel().tolist() == [True, True]


def test_outlines_on_absent_slices_are_warned_about_and_the_rest_is_kept(tmp_path):
    rois = [roi(0, 3, 9), (-32.5, "1.2.3.99", square(3, 9)), (-35.0, "1.2.3.98", square(3, 9))]
    (row,), warnings = read_rows(tmp_path, [nodule_xml(rois)])
    assert (row["first_slice"], row["last_slice"]) == (0, 0)
    assert warnings == [
        "069.xml: 2 of 3 outlines of reader 1's outlined nodule 1 lie on slices that are absent from the scan"
    ]


def test_position_finds_the_slice_where_the_uid_does_not(tmp_path):
    (row,), warnings = read_rows(tmp_path, [nodule_xml([(z_mm(4) + 0.1, "", square(3, 9))])])
    assert row["first_slice"] == 4 and not warnings


def small_xml(index, points, name="s"):
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    return (
        f"<unblindedReadNodule><noduleID>{name}</noduleID><roi><imageZposition>{z_mm(index)}</imageZposition>"
        f"<imageSOP_UID>{uid(index)}</imageSOP_UID><inclusion>TRUE</inclusion>{edges}</roi></unblindedReadNodule>"
    )


def non_nodule_xml(index, x, y, name="n"):
    return (
        f"<nonNodule><nonNoduleID>{name}</nonNoduleID><imageZposition>{z_mm(index)}</imageZposition><imageSOP_UID>"
        f"{uid(index)}</imageSOP_UID><locus><xCoord>{x}</xCoord><yCoord>{y}</yCoord></locus></nonNodule>"
    )


def test_small_nodules_and_non_nodules_are_marks_on_their_slices(tmp_path):
    write_series(tmp_path)
    first = small_xml(0, [(5, 6)]) + non_nodule_xml(3, 7, 8) + non_nodule_xml(99, 1, 1, "gone")
    write_xml(tmp_path / "a.xml", [first, nodule_xml([roi(1, 3, 9)]) + non_nodule_xml(5, 9, 10, "m")])
    (annotation,) = read_annotations(list_files(tmp_path))
    findings = annotation.findings(next(read_dicom_series(tmp_path)))
    assert (annotation.num_small_nodules, annotation.num_non_nodules, len(findings.nodules)) == (1, 3, 1)
    assert annotation.nodules[0].reader == 1
    columns = ("kind", "reader", "name", "slice_index", "z_mm", "row", "column", "patient_id", "series_id")
    assert [tuple(row[name] for name in columns) for row in mark_table(findings.marks).to_pylist()] == [
        ("small_nodule", 0, "s", 0, -30.0, 6.0, 5.0, "P1", "1.2.3"),
        ("non_nodule", 0, "n", 3, -22.5, 8.0, 7.0, "P1", "1.2.3"),
        ("non_nodule", 1, "m", 5, -17.5, 10.0, 9.0, "P1", "1.2.3"),
    ]
    assert findings.warnings == [
        "a.xml: 1 of 4 marks of small nodules and non-nodules lie on slices that are absent from the scan"
    ]


def test_a_scan_without_marks_still_has_the_columns_of_a_mark():
    assert mark_table([]).column_names == list(MARK_FEATURES)


def read_one(tmp_path, sessions, **options):
    write_xml(tmp_path / "a.xml", sessions, **options)
    (annotation,) = read_annotations(list_files(tmp_path))
    return annotation


def test_a_nodule_drawn_but_not_rated_is_a_small_one_at_its_middle(tmp_path):
    """Some readers circled what is below 3 mm instead of pointing at it."""
    annotation = read_one(tmp_path, [small_xml(0, [(5, 6), (7, 6), (7, 8), (5, 8)])])
    (mark,) = annotation.marks
    assert (mark.kind, mark.row, mark.column, mark.z_mm) == ("small_nodule", 7.0, 6.0, z_mm(0))
    assert not annotation.nodules
    assert annotation.warnings == ("reader 1's nodule 1 is outlined but not rated: taken as a nodule below 3 mm",)


def test_a_point_stays_a_small_nodule_even_if_it_is_rated(tmp_path):
    annotation = read_one(tmp_path, [nodule_xml([(z_mm(2), uid(2), [(5, 6)])])])
    assert (len(annotation.nodules), annotation.num_small_nodules, annotation.warnings) == (0, 1, ())


def test_a_single_point_on_the_last_slice_of_a_nodule_adds_nothing(tmp_path):
    rows, warnings = read_rows(tmp_path, [nodule_xml([roi(1, 3, 9), (z_mm(2), uid(2), [(5, 5)])])])
    assert (rows[0]["first_slice"], rows[0]["last_slice"], warnings) == (1, 1, [])


@pytest.mark.parametrize("damage", ["<texture>0</texture>", "<texture></texture>", "", "<texture>6</texture>"])
def test_a_rating_that_is_missing_or_off_its_scale_is_null(tmp_path, damage):
    xml = nodule_xml([roi(1, 3, 9)]).replace("<texture>5</texture>", damage)
    sessions = [xml, nodule_xml([roi(1, 3, 9)], name="N2")]
    (row,), warnings = read_rows(tmp_path, sessions)
    assert row["texture"] == [None, 5] and row["malignancy"] == [4, 4]
    assert warnings == ["069.xml: reader 1's outlined nodule 1 has no rating of texture"]
    assert nodule_table([row])["texture"].to_pylist() == [[None, 5]]


def test_a_nodule_without_any_point_is_left_out_with_a_warning(tmp_path):
    annotation = read_one(tmp_path, [nodule_xml([(z_mm(1), uid(1), [])]) + nodule_xml([roi(1, 3, 9)])])
    assert len(annotation.nodules) == 1
    assert annotation.warnings == ("reader 1's nodule 1 is left out: it has no point",)


def test_a_copied_reading_session_is_no_fifth_reader(tmp_path):
    def session(reader):
        return f"<servicingRadiologistID>{reader}</servicingRadiologistID>" + nodule_xml([roi(1, 3, 9)])

    annotation = read_one(tmp_path, [session(1), session(2), session(1), "", ""])
    assert [nodule.reader for nodule in annotation.nodules] == [0, 1]
    assert annotation.warnings == ("a reading session stands in the file twice; the copy is left out",)


def test_a_fifth_reader_joins_no_nodule():
    masks = [BoxMask(np.array([0, 0, 0]), np.ones((1, 2, size), bool)) for size in (4, 4, 4, 4, 3)]
    assert [len(group) for group in group_readers([0, 1, 2, 3, 4], masks)] in ([4, 1], [1, 4])


def test_a_uid_finds_the_slice_where_the_position_is_missing(tmp_path):
    xml = nodule_xml([("", uid(3), square(3, 9))]) + nodule_xml([("", "", square(3, 9))])
    (row,), warnings = read_rows(tmp_path, [xml])
    assert row["first_slice"] == 3
    assert "1 of 1 outlines of reader 1's outlined nodule 2 lie on slices that are absent" in warnings[0]


def test_an_outline_beside_the_image_is_left_out_with_a_warning(tmp_path):
    rows, warnings = read_rows(tmp_path, [nodule_xml([roi(1, 100, 110)])])
    assert not rows
    assert warnings == ["069.xml: reader 1's outlined nodule 1 is left out: no pixel of it lies inside the image"]


def test_annotations_of_a_chest_x_ray_are_ignored_with_their_reason(tmp_path):
    (tmp_path / "a.xml").write_text(
        '<IdriReadMessage xmlns="http://www.nih.gov"><CXRreadingSession/></IdriReadMessage>'
    )
    (rejection,) = read_annotations(list_files(tmp_path))
    assert "chest X-ray" in rejection.reason and rejection.loses == "nothing"


def test_an_outline_gives_the_same_mask_wherever_it_lies():
    """Lines between points that do not touch are rounded alike at odd and even places."""
    points = np.array([(0, 0), (7, 3), (4, 9), (-3, 5)]) + 20
    _, inside, border = fill_outline(points)
    for shift in ((1, 0), (0, 1), (3, 5)):
        _, moved_inside, moved_border = fill_outline(points + shift)
        assert (moved_inside == inside).all() and (moved_border == border).all()


@pytest.mark.real_data
def test_the_whole_xml_of_two_real_scans_is_told(real_data):
    counts = {}
    for path in ("LIDC-IDRI-0001/069.xml", "LIDC-IDRI-0002_12slices/71.xml"):
        (annotation,) = read_annotations([RawFile(real_data / "chest_ct", path)])
        counts[path] = (len(annotation.nodules), annotation.num_small_nodules, annotation.num_non_nodules)
        assert not annotation.warnings
        assert {mark.reader for mark in annotation.marks} == {0, 1, 2, 3}
    assert list(counts.values()) == [(4, 9, 13), (2, 26, 25)]


@pytest.mark.real_data
def test_marks_of_a_real_scan_lie_on_its_slices(real_data, tmp_path):
    folder = real_data / "chest_ct" / "LIDC-IDRI-0001"
    volume = next(volume for volume in read_dicom_series(folder) if isinstance(volume, Volume))
    (annotation,) = (a for a in read_annotations(list_files(folder)) if not isinstance(a, Rejection))
    findings = annotation.findings(volume)
    assert len(findings.marks) == 22 and not findings.warnings
    for row, mark in zip(findings.marks, annotation.marks, strict=True):
        assert volume.slice_uids[row["slice_index"]] == mark.slice_uid
        assert row["z_mm"] == mark.z_mm == volume.z_mm[row["slice_index"]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("<LidcReadMessage><roi>", "damaged LIDC XML"), ("<annotation/>", "XML of another kind")],
)
def test_other_and_damaged_xml_becomes_a_reason(tmp_path, text, reason):
    (tmp_path / "a.xml").write_text(text)
    (rejection,) = read_annotations(list_files(tmp_path))
    assert isinstance(rejection, Rejection) and reason in rejection.reason


@pytest.mark.parametrize("uid", ["", "1.2.3.0"])
def test_outlines_find_their_slice_by_position_where_uids_tell_nothing(tmp_path, uid):
    """Anonymisers blank the UIDs, or give every slice the same one."""
    write_series(tmp_path)
    write_xml(tmp_path / "a.xml", [nodule_xml([(-25.0, uid, square(3, 9))])])
    (annotation,) = read_annotations(list_files(tmp_path))
    volume = dataclasses.replace(next(iter(read_dicom_series(tmp_path))), slice_uids=(uid,) * 6)
    findings = annotation.findings(volume)
    (row,) = findings.nodules
    assert (row["first_slice"], row["last_slice"], findings.warnings) == (2, 2, [])


def test_a_coordinate_beyond_any_image_is_damage_and_not_a_mask_of_gigabytes(tmp_path):
    write_xml(tmp_path / "a.xml", [nodule_xml([(-25.0, "1", [(3, 3), (300_000, 300_000)])])])
    (rejection,) = read_annotations(list_files(tmp_path))
    assert isinstance(rejection, Rejection) and "found (300000, 300000)" in rejection.reason


@pytest.mark.parametrize(
    ("patient_ids", "name", "is_public"),
    [
        (["LIDC-IDRI-0001", "LIDC-IDRI-0002"], "LIDC-IDRI", True),
        (["PHANTOM-0001"], "Phantom chest CT", True),
        (["LIDC-IDRI-0001", "4711"], "Chest CT", False),
        (["PHANTOM-0001", "LIDC-IDRI-0001"], "Chest CT", False),
    ],
)
def test_only_a_published_collection_has_public_pseudonyms(patient_ids, name, is_public):
    collection = collection_of(patient_ids)
    assert (collection["name"], collection["is_public"]) == (name, is_public)
