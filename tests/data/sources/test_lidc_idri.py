import dataclasses

import numpy as np
import pytest

from dinox_hf.data.readers.dicom import read_dicom_series
from dinox_hf.data.sources.lidc_idri import read_annotations
from dinox_hf.data.sources.lidc_nodules import BoxMask, consensus, fill_outline, group_readers
from dinox_hf.data.volume import Rejection
from tests.data.scans import nodule_xml, square, write_series, write_xml


def read_rows(folder, sessions, **options):
    write_series(folder)
    write_xml(folder / "069.xml", sessions, **options)
    volume = next(read_dicom_series(folder))
    (annotation,) = read_annotations(folder)
    return annotation.nodule_rows(volume)


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
    assert warnings == ["069.xml: 2 of 3 outlines of reader 1's 'N1' lie on slices that are absent from the scan"]


def test_position_finds_the_slice_where_the_uid_does_not(tmp_path):
    (row,), warnings = read_rows(tmp_path, [nodule_xml([(z_mm(4) + 0.1, "", square(3, 9))])])
    assert row["first_slice"] == 4 and not warnings


def test_small_nodules_and_non_nodules_are_counted_only(tmp_path):
    small = "<unblindedReadNodule><noduleID>s</noduleID><roi><imageZposition>-30</imageZposition>"
    small += "<imageSOP_UID>1.2.3.0</imageSOP_UID><inclusion>TRUE</inclusion>"
    small += "<edgeMap><xCoord>5</xCoord><yCoord>6</yCoord></edgeMap></roi></unblindedReadNodule>"
    non_nodule = "<nonNodule><nonNoduleID>n</nonNoduleID></nonNodule>"
    write_xml(tmp_path / "a.xml", [small + non_nodule, nodule_xml([roi(1, 3, 9)]) + non_nodule])
    (annotation,) = read_annotations(tmp_path)
    assert (annotation.num_small_nodules, annotation.num_non_nodules, len(annotation.nodules)) == (1, 2, 1)
    assert annotation.nodules[0].reader == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [("<LidcReadMessage><roi>", "damaged LIDC XML"), ("<annotation/>", "XML of kind annotation")],
)
def test_other_and_damaged_xml_becomes_a_reason(tmp_path, text, reason):
    (tmp_path / "a.xml").write_text(text)
    (rejection,) = read_annotations(tmp_path)
    assert isinstance(rejection, Rejection) and reason in rejection.reason


@pytest.mark.parametrize("uid", ["", "1.2.3.0"])
def test_outlines_find_their_slice_by_position_where_uids_tell_nothing(tmp_path, uid):
    """Anonymisers blank the UIDs, or give every slice the same one."""
    write_series(tmp_path)
    write_xml(tmp_path / "a.xml", [nodule_xml([(-25.0, uid, square(3, 9))])])
    (annotation,) = read_annotations(tmp_path)
    volume = dataclasses.replace(next(iter(read_dicom_series(tmp_path))), slice_uids=(uid,) * 6)
    (row,), warnings = annotation.nodule_rows(volume)
    assert (row["first_slice"], row["last_slice"], warnings) == (2, 2, [])


def test_a_coordinate_beyond_any_image_is_damage_and_not_a_mask_of_gigabytes(tmp_path):
    write_xml(tmp_path / "a.xml", [nodule_xml([(-25.0, "1", [(3, 3), (300_000, 300_000)])])])
    (rejection,) = read_annotations(tmp_path)
    assert isinstance(rejection, Rejection) and "found (300000, 300000)" in rejection.reason
