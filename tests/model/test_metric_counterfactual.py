"""The same tissue at two spacings: with its millimetres told, a network sees it as more alike than without.

Tissue is laid out in squares of 8 mm of one HU each, the means of a slice. At 1 mm a patch of 8 pixels shows one
square, at 0.5 mm a quarter of it and thus the same HU: what patches show is equal, and only where they lie is not.
The networks are random; their keys equal their queries, so that a patch looks around itself. Where attention is spread
evenly, or where patches show other things at another spacing, coordinates decide little and nothing is gained.
"""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from dinox_hf import Dinov3CTConfig, Dinov3CTImageProcessor, Dinov3CTModel
from dinox_hf.data.sources.phantom import phantom_volume

SQUARES, SQUARE_MM = 8, 8
INNER = slice(SQUARES // 4, 3 * SQUARES // 4)  # half of the field, which the finer image shows
COARSE_MM, FINE_MM = 1.0, 0.5
SEEDS = range(3)


def network(seed, rope_coordinates):
    torch.manual_seed(seed)
    extent_mm = float(SQUARES * SQUARE_MM) if rope_coordinates == "metric" else None
    fields = {"num_hidden_layers": 2, "layerscale_value": 1.0, "initializer_range": 0.1}
    fields |= {"rope_coordinates": rope_coordinates, "rope_extent_mm": extent_mm}
    model = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", **fields)).eval()
    with torch.no_grad():
        for layer in model.model.layer:
            layer.attention.k_proj.weight.copy_(layer.attention.q_proj.weight.mul_(2))
    return model


@torch.no_grad()
def squares(model, squares_hu, spacing_mm, told_mm):
    """(D, rows, columns) the mean token of every square, from pixels of `spacing_mm` of which `told_mm` is said."""
    side_px = round(SQUARE_MM / spacing_mm)
    image = np.kron(squares_hu, np.ones((side_px, side_px))).astype(np.float32)
    inputs = Dinov3CTImageProcessor(do_resize=False)(image, spacing_mm=(told_mm, told_mm), return_tensors="pt")
    patches = model(**inputs).last_hidden_state[0, 1 + model.config.num_register_tokens :]
    grid = patches.T.unflatten(-1, (image.shape[0] // 8, -1))
    return F.avg_pool2d(grid, side_px // 8)


def distance(model, squares_hu, told_coarse_mm=COARSE_MM, told_fine_mm=FINE_MM):
    """How far the tokens of the inner squares lie apart at the two spacings, in units of their spread."""
    coarse = squares(model, squares_hu, COARSE_MM, told_coarse_mm)[:, INNER, INNER]
    fine = squares(model, squares_hu[INNER, INNER], FINE_MM, told_fine_mm)
    spread = (coarse - coarse.mean(dim=(1, 2), keepdim=True)).norm(dim=0).mean()
    return ((coarse - fine).norm(dim=0).mean() / spread).item()


def in_squares(slice_hu):
    """(8, 8) HU: a slice, or the most of it that divides, in means."""
    side = SQUARES * (min(slice_hu.shape) // SQUARES)
    blocks = slice_hu[:side, :side].reshape(SQUARES, side // SQUARES, SQUARES, side // SQUARES)
    return blocks.mean(axis=(1, 3))


def assert_nearer_with_the_true_spacing_only(squares_hu):
    for seed in SEEDS:
        normalised, metric = network(seed, "separate"), network(seed, "metric")
        expected = distance(normalised, squares_hu)
        assert distance(metric, squares_hu) < 0.95 * expected
        # The control: told that both are the same, it sees what the other network sees; told the opposite, worse.
        told_alike = distance(metric, squares_hu, told_coarse_mm=COARSE_MM, told_fine_mm=COARSE_MM)
        assert told_alike == pytest.approx(expected, rel=1e-3)
        assert distance(metric, squares_hu, told_coarse_mm=FINE_MM, told_fine_mm=COARSE_MM) > 1.2 * expected


def test_tissue_of_a_phantom_is_seen_more_alike_with_its_true_spacing_and_less_with_a_wrong_one():
    volume, _ = phantom_volume(seed=1, size=64, num_slices=12)
    assert_nearer_with_the_true_spacing_only(in_squares(volume.voxels[6]))


@pytest.mark.real_data
def test_tissue_of_a_patient_is_seen_more_alike_with_its_true_spacing_and_less_with_a_wrong_one(real_data):
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(real_data / "ct_nifti" / "example_ct.nii.gz")))
    assert_nearer_with_the_true_spacing_only(in_squares(voxels[len(voxels) // 2]))
