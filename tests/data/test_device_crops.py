import dataclasses

import numpy as np
import pytest
import torch

from dinox_hf.data.crops import MultiCrop
from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.device_crops import (
    blur_matrices,
    cut_on_device,
    drawn_crops,
    resampling_matrices,
    stack_slices,
)
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.data.resampling import banded_weights, blur_weights, dense

CONFIG = CropsConfig(global_size=32, local_size=16, num_local=3, gram_size=48, blur_probability=(0.5, 1.0, 0.5))


def random_axes(num, seed=0):
    """Offset, extent and source pixels of boxes that lie anywhere, some larger and some smaller than their crop."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        size_in = int(rng.integers(20, 600))
        extent = rng.uniform(3, size_in)
        yield rng.uniform(0, size_in - extent), extent, size_in


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size_out", [16, 48, 224])
def test_matrices_are_those_of_the_banded_kernel(size_out, flip):
    axes = [*random_axes(50), (0.0, 512.0, 512), (100.0, 5.0, 512), (507.5, 4.5, 512), (0.0, 48.0, 48)]
    offset, extent, size_in = (torch.tensor(each, dtype=torch.float64) for each in zip(*axes, strict=True))
    found = resampling_matrices(offset, extent, size_in.long(), size_out, 600, torch.full((len(axes),), flip))
    for matrix, (offset_px, extent_px, pixels) in zip(found.numpy(), axes, strict=True):
        expected = dense(banded_weights(offset_px, extent_px, pixels, size_out, flip), 600)
        np.testing.assert_allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize("size", [8, 96])
def test_blurs_are_those_of_the_banded_kernel(size):
    sigmas = [0.1, 0.25, 0.3, 0.7, 1.0, 2.0]
    found = blur_matrices(torch.tensor(sigmas), size).numpy()
    for matrix, sigma in zip(found, sigmas, strict=True):
        np.testing.assert_allclose(matrix, dense(blur_weights(size, sigma), size), atol=1e-6)


def test_no_blur_is_the_identity():
    assert torch.equal(blur_matrices(torch.zeros(1), 9)[0], torch.eye(9))


def slices_of(shapes, channels, seed=0):
    rng = np.random.default_rng(seed)
    slices = [rng.integers(-1024, 2000, (channels, *shape)).astype(np.int16) for shape in shapes]
    for each in slices:
        each[:, :7] = -2000  # a fill, where a set has one
    return slices


def crops_of_both(intensity, shapes=((70, 90), (100, 64), (120, 120)), padding=(-2000, None, 0)):
    """All crops of a small batch, by size: cut by the loader's kernel, and by matrix products."""
    multi_crop = MultiCrop(CONFIG, intensity)
    slices = slices_of(shapes, 1 if intensity.channels == "windows" else 3)
    draws = [
        multi_crop.draw(s, (0.8, 0.8), p, np.random.default_rng(i))
        for i, (s, p) in enumerate(zip(slices, padding, strict=True))
    ]
    stack = stack_slices(slices, padding)
    for kind, size in (("global_crops", 32), ("local_crops", 16), ("gram_crops", 48)):
        by_slice = [getattr(each, kind) for each in draws]
        kernel = [multi_crop.cut(s, p, d, size) for s, p, d in zip(slices, padding, by_slice, strict=True)]
        crop_major = [draw for crop in zip(*by_slice, strict=True) for draw in crop]
        yield (
            np.stack(kernel, axis=1).reshape(-1, 3, size, size),
            cut_on_device(stack, drawn_crops(crop_major, size, intensity)),
        )


@pytest.mark.parametrize("channels", ["windows", "neighbours"])
@pytest.mark.parametrize("noise_hu", [0.0, 40.0])
def test_matrix_products_give_the_crops_of_the_kernel(channels, noise_hu):
    for kernel, products in crops_of_both(IntensityConfig(channels=channels, noise_hu=noise_hu)):
        assert products.dtype == torch.float32 and products.is_contiguous()
        np.testing.assert_allclose(products.numpy(), kernel, atol=1e-4)


def test_a_slice_is_cut_alike_alone_and_beside_a_larger_one():
    intensity = IntensityConfig(noise_hu=20.0)
    alone = crops_of_both(intensity, shapes=((70, 90),), padding=(-2000,))
    beside = crops_of_both(intensity, shapes=((70, 90), (300, 200)), padding=(-2000, None))
    for (_, one), (_, two) in zip(alone, beside, strict=True):
        torch.testing.assert_close(one, two[::2], atol=1e-5, rtol=0)


def test_cutting_again_gives_the_same_bits():
    for (_, once), (_, again) in zip(*(crops_of_both(IntensityConfig(noise_hu=20.0)) for _ in range(2)), strict=True):
        assert torch.equal(once, again)


def test_no_local_crops_are_none():
    config = dataclasses.replace(CONFIG, num_local=0)
    (slice_hu,) = slices_of([(60, 60)], 1)
    draws = MultiCrop(config, IntensityConfig()).draw(slice_hu, (1.0, 1.0), None, np.random.default_rng(0))
    crops = cut_on_device(stack_slices([slice_hu], [None]), drawn_crops(draws.local_crops, 16, IntensityConfig()))
    assert crops.shape == (0, 3, 16, 16)


def test_training_in_tf32_stays_allowed_elsewhere():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        list(crops_of_both(IntensityConfig()))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
