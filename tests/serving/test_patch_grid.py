from itertools import pairwise

import numpy as np
import pytest

from dinox_hf.serving.patch_grid import make_grid, tile_starts


def test_without_resampling_the_canvas_is_the_slice_and_air():
    slice_hu = np.arange(20 * 13, dtype=np.int16).reshape(20, 13)
    grid = make_grid((20, 13), (0.7, 0.7), patch_size=8)
    canvas = grid.canvas(slice_hu[None], padding_hu=5)
    assert grid.shape == (3, 2) and canvas.shape == (1, 24, 16)
    assert (canvas[0, 20:] == -1024).all() and (canvas[0, :, 13:] == -1024).all()
    shown = np.where(slice_hu == 5, -1024, slice_hu)
    np.testing.assert_allclose(canvas[0, :20, :13], shown, atol=1e-3)


def test_half_the_pixel_size_doubles_the_patches_and_keeps_places():
    grid = make_grid((32, 32), (0.8, 0.8), patch_size=8, pixel_mm=0.4)
    assert grid.shape == (8, 8) and grid.patch_px == (4.0, 4.0)
    slice_hu = np.zeros((32, 32), dtype=np.int16)
    slice_hu[12:16, 20:24] = 1000
    means = grid.mean_of_patches(grid.canvas(slice_hu[None], None)[0])
    assert np.unravel_index(means.argmax(), means.shape) == grid.patch_of(13.5, 21.5) == (3, 5)


def test_patches_of_pixels_that_are_no_squares_are_squares_of_millimetres():
    grid = make_grid((50, 60), (0.8, 0.5), patch_size=8, pixel_mm=0.5)
    assert grid.patch_px == pytest.approx((5.0, 8.0))
    assert grid.shape == (10, 8)


def test_the_place_of_a_patch_is_its_middle():
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    affine[:3, 3] = (10, 20, 30)
    placed = make_grid((48, 40), (0.8, 0.7), patch_size=8).affine(affine)
    # The middle of the first patch of 8 pixels lies between pixels 3 and 4.
    np.testing.assert_allclose(placed @ [0, 0, 0, 1], affine @ [3.5, 3.5, 0, 1])
    np.testing.assert_allclose(placed @ [2, 1, 4, 1], affine @ [19.5, 11.5, 4, 1])


def test_values_on_the_slice_are_bilinear_between_middles_and_flat_beyond_them():
    values = make_grid((16, 24), (1, 1), patch_size=8).on_slice(np.array([[0.0, 1, 2], [3, 4, 5]]))
    assert values.shape == (16, 24)
    assert values[0, 0] == 0 and values[15, 23] == 5
    # A plane stays a plane: pixel 7 lies 3.5 of 8 pixels behind the first middle.
    assert values[0, 7] == pytest.approx(3.5 / 8) and values[7, 0] == pytest.approx(3 * 3.5 / 8)


def test_a_point_outside_the_slice_is_refused():
    grid = make_grid((48, 40), (1, 1), patch_size=8)
    assert grid.patch_of(-0.5, 39.5) == (0, 4)
    with pytest.raises(ValueError, match="48 rows and 40 columns; found row 3, column 40"):
        grid.patch_of(3, 40)


@pytest.mark.parametrize(("count", "side", "overlap"), [(10, 4, 0.5), (64, 16, 0.25), (7, 7, 0.5), (9, 4, 0.0)])
def test_tiles_cover_the_axis_and_overlap_enough(count, side, overlap):
    starts = tile_starts(count, side, overlap)
    covered = {start + place for start in starts for place in range(side)}
    assert covered == set(range(count)) and starts[0] == 0 and starts[-1] == count - side
    assert all(before + side - after >= int(overlap * side) for before, after in pairwise(starts))
