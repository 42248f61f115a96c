import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dinox_hf.data.resampling import NO_BLUR, banded_weights, blur_weights, dense, resample

BOXES = {
    "shrunk": (40, 5, 150, 170, 48),  # top, left, height, width, size of the crop
    "enlarged": (10, 20, 24, 30, 64),
    "same size": (0, 0, 96, 96, 96),
    "whole slice": (0, 0, 200, 220, 112),
    "less than a band": (60, 60, 3, 5, 16),
}


def random_slice(shape=(200, 220)):
    return np.random.default_rng(0).integers(-2000, 2000, shape).astype(np.int16)


def cut(slice_hu, top, left, height, width, size, flip=False, blur_sigma_px=0.0):
    weights_y = banded_weights(top, height, slice_hu.shape[0], size)
    weights_x = banded_weights(left, width, slice_hu.shape[1], size, flip)
    blur = blur_weights(size, blur_sigma_px) if blur_sigma_px > 0 else NO_BLUR
    return resample(slice_hu[None], weights_y, weights_x, blur=blur)[0]


def cut_by_torch(slice_hu, top, left, height, width, size):
    box = torch.from_numpy(slice_hu[None, None, top : top + height, left : left + width].astype(np.float64))
    return F.interpolate(box, (size, size), mode="bicubic", antialias=True)[0, 0].numpy()


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_boxes_on_pixel_edges_equal_torch_antialiased_bicubic(box):
    slice_hu = random_slice()
    np.testing.assert_allclose(cut(slice_hu, *box), cut_by_torch(slice_hu, *box), atol=1e-2, rtol=0)


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_flip_in_the_weights_equals_a_flip_of_the_crop(box):
    slice_hu = random_slice()
    np.testing.assert_array_equal(cut(slice_hu, *box, flip=True), cut(slice_hu, *box)[:, ::-1])


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 2.0])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES.keys())
def test_a_blur_is_that_of_nine_pixels_mirrored_at_the_edge(box, sigma):
    slice_hu = random_slice()
    gaussian = torch.exp(-0.5 * (torch.arange(-4, 5, dtype=torch.float64) / sigma) ** 2)
    gaussian /= gaussian.sum()
    crop = torch.from_numpy(cut_by_torch(slice_hu, *box))[None, None]
    padded = F.pad(crop, (4, 4, 4, 4), mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, gaussian.view(1, 1, 9, 1)), gaussian.view(1, 1, 1, 9))[0, 0].numpy()
    # Outer taps that weigh less than 1e-5 are left out: 0.02 HU of this noise between -2000 and 2000 HU.
    np.testing.assert_allclose(cut(slice_hu, *box, blur_sigma_px=sigma), blurred, atol=5e-2, rtol=0)


@pytest.mark.parametrize(("flip", "sigma"), [(False, None), (True, None), (False, 0.8), (True, 1.7)])
def test_matrix_products_on_the_raw_slice_give_the_kernels_crop(flip, sigma):
    slice_hu = random_slice()
    weights_y = banded_weights(30.25, 77.5, 200, 40)
    weights_x = banded_weights(101.75, 61.125, 220, 40, flip)
    blur = blur_weights(40, sigma) if sigma else NO_BLUR
    blur_matrix = dense(blur, 40) if sigma else np.eye(40, dtype=np.float32)
    resampled = dense(weights_y, 200) @ slice_hu.astype(np.float32) @ dense(weights_x, 220).T
    expected = blur_matrix @ resampled @ blur_matrix.T
    found = resample(slice_hu[None], weights_y, weights_x, blur=blur)[0]
    np.testing.assert_allclose(found, expected, atol=1e-2, rtol=0)


def test_every_row_of_weights_sums_to_one_also_between_pixels():
    for size, sigma in ((24, 1.0), (24, 0.2), (3, 1.0), (8, 2.0)):
        np.testing.assert_allclose(blur_weights(size, sigma).values.sum(axis=1), 1, atol=1e-6)
    for flip in (False, True):
        weights = banded_weights(3.37, 41.9, 50, 24, flip)
        np.testing.assert_allclose(weights.values.sum(axis=1), 1, atol=1e-6)
        assert weights.start.min() >= 3
        assert (weights.start + weights.values.shape[1]).max() <= 46  # the pixels that the box touches: 3 to 45


def test_a_box_that_moves_by_a_fraction_of_a_pixel_moves_the_crop_by_as_much():
    ramp = np.tile(np.arange(0, 1000, 10, dtype=np.int16), (100, 1))
    shift = cut(ramp, 20, 20.3, 40, 40, 20) - cut(ramp, 20, 20, 40, 40, 20)
    np.testing.assert_allclose(shift[:, 5:-5], 3.0, atol=1e-2)  # 0.3 px of 10 HU each


def test_padding_is_read_as_air_and_nothing_else_changes():
    slice_hu = random_slice()
    slice_hu[:, :90] = -2000
    as_air = np.where(slice_hu == -2000, np.int16(-1024), slice_hu)
    weights = banded_weights(60, 80, 200, 32), banded_weights(60, 80, 220, 32)
    stored = slice_hu.copy()
    np.testing.assert_array_equal(
        resample(slice_hu[None], *weights, padding_hu=-2000), resample(as_air[None], *weights)
    )
    np.testing.assert_array_equal(slice_hu, stored)


def test_read_only_and_strided_slices_give_the_same_crop():
    slice_hu = random_slice()
    weights = banded_weights(10, 50, 200, 16), banded_weights(10, 50, 220, 16)
    expected = resample(slice_hu[None], *weights)
    strided = np.repeat(slice_hu, 2, axis=1)[:, ::2]
    read_only = slice_hu.copy()
    read_only.setflags(write=False)
    for same in (strided, read_only):
        np.testing.assert_array_equal(resample(same[None], *weights), expected)
