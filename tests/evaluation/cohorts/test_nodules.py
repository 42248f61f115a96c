import numpy as np
import pytest

from dinox_hf.evaluation.cohorts.nodules import Field, ScanSet, cut_field, cut_mask, cut_nodules, read_nodules

from ..conftest import RADIUS_PX, write_set


def test_a_field_centres_its_nodule_and_the_mask_lies_on_it(tiny_set):
    scans, nodules = ScanSet(tiny_set), read_nodules(tiny_set)
    fields_hu, masks = cut_nodules(scans, nodules, field_mm=24, size_px=24, channels="windows")
    dense = [index for index, nodule in enumerate(nodules) if nodule.ratings["texture"][0] == 5]
    assert fields_hu[dense, 0, 11:13, 11:13].min() > 0
    rows, columns = np.nonzero(masks[0])
    assert abs(rows.mean() - 11.5) < 0.6
    assert abs(columns.mean() - 11.5) < 0.6
    assert masks[0].sum() == pytest.approx(np.pi * RADIUS_PX**2, rel=0.15)


def test_a_shift_moves_the_nodule_by_a_share_of_the_field(tiny_set):
    scans, nodules = ScanSet(tiny_set), read_nodules(tiny_set)[:1]
    _, masks = cut_nodules(scans, nodules, 24, 24, "windows", shifts=np.array([[0.25, -0.25]]))
    rows, columns = np.nonzero(masks[0])
    assert abs(rows.mean() - 5.5) < 0.6
    assert abs(columns.mean() - 17.5) < 0.6


def test_unequal_spacing_is_cut_in_millimetres():
    slices_hu = np.full((1, 40, 40), -800, dtype=np.int16)
    slices_hu[0, 18:22] = 100  # 4 rows of 0.5 mm
    field = cut_field(slices_hu, Field((20.0, 20.0), (32.0, 16.0)), size_px=16, padding_hu=None)  # 16 x 16 mm
    inside = field[0, :, 8] > -350
    assert inside.sum() == 2


def test_beyond_the_border_and_in_the_padding_there_is_air():
    slices_hu = np.zeros((1, 20, 20), dtype=np.int16)
    slices_hu[0, :, 15:] = -2000
    field = cut_field(slices_hu, Field((0.0, 10.0), (20.0, 20.0)), size_px=20, padding_hu=-2000)
    assert field.min() > -1150
    np.testing.assert_allclose(field[0, :8], -1024, atol=1)
    np.testing.assert_allclose(field[0, 12:, 17:], -1024, atol=1)
    np.testing.assert_allclose(field[0, 12:, 2:12], 0, atol=1)


def test_a_nodule_smaller_than_a_pixel_keeps_its_fullest_pixel(tiny_set):
    nodule = read_nodules(tiny_set)[0]
    mask = cut_mask(nodule, (48, 64), Field((20.5, 30.5), (600.0, 600.0)), size_px=10)
    assert mask.sum() >= 1
    assert mask[3:7, 3:7].any()


def test_a_mask_that_was_drawn_on_a_larger_image_is_refused(tiny_set):
    nodule = read_nodules(tiny_set)[0]
    with pytest.raises(ValueError, match=r"in its slice of \(24, 64\) pixels; found \(9, 9\) from row 16, column 26"):
        cut_mask(nodule, (24, 64), Field((20.5, 30.5), (24.0, 24.0)), size_px=24)


def test_a_set_without_nodules_says_what_is_missing(tmp_path):
    folder = write_set(tmp_path / "bare", 1, with_nodules=False)
    with pytest.raises(ValueError, match=r"configuration 'nodules'.*found slices.*annotations"):
        read_nodules(folder)


def test_a_missing_set_says_how_to_build_one(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder.*build_lidc_idri"):
        ScanSet(tmp_path / "nowhere")
