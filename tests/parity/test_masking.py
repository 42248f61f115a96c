"""Block masks against the reference: exact counts, and the same averages over thousands of masks."""

import numpy as np
import pytest
import torch

from dinox_hf.data.masking import MIN_ASPECT, MIN_BLOCK_PATCHES, batch_masks, block_mask
from tests.parity.fixtures import cases, load


@pytest.mark.parametrize("case", cases("masking", hyper="target"))
def test_block_masks_have_the_exact_count_and_the_averages_of_the_reference(case):
    _, outputs = load(case)
    hyper, num_draws, rng = case["hyper"], 2000, np.random.default_rng(0)
    assert (hyper["min_patches"], hyper["min_aspect"]) == (MIN_BLOCK_PATCHES, MIN_ASPECT)
    masks = np.stack([block_mask(rng, hyper["grid"], hyper["target"]) for _ in range(num_draws)])
    # Five standard errors of the difference between num_draws masks here and n_masks there.
    tolerance = 5 * np.sqrt(1 / num_draws + 1 / hyper["n_masks"])

    assert (masks.sum(axis=(1, 2)) == hyper["target"]).all()
    agreement = (masks[:, :, 1:] == masks[:, :, :-1]).mean(axis=(1, 2))
    assert agreement.mean() == pytest.approx(outputs["horizontal_agreement"].item(), abs=tolerance * agreement.std())
    rate = outputs["position_rate"].numpy()
    assert (np.abs(masks.mean(axis=0) - rate) <= tolerance * np.sqrt(rate * (1 - rate))).all()


@pytest.mark.parametrize("case", cases("masking", hyper="mask_probability"))
def test_a_batch_has_the_number_of_masked_patches_of_the_reference(case):
    _, outputs = load(case)
    hyper, counts = case["hyper"], outputs["sorted_counts"]
    side = round(hyper["n_tokens"] ** 0.5)
    grid = (side, side) if side * side == hyper["n_tokens"] else (1, hyper["n_tokens"])
    masks = batch_masks(np.random.default_rng(0), len(counts), grid, hyper["mask_probability"], hyper["mask_ratio"])
    assert torch.from_numpy(masks).sum(dim=1).sort().values.tolist() == counts.tolist()
