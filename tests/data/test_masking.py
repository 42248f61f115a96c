import numpy as np
import pytest

from dinox_hf.data.masking import MaskingConfig, batch_masks, block_mask


@pytest.mark.parametrize("grid", [(14, 14), (6, 9), (2, 2), (1, 5)])
def test_every_count_from_nothing_to_everything_is_met_exactly(grid):
    rng = np.random.default_rng(0)
    for num_masked in range(grid[0] * grid[1] + 1):
        mask = block_mask(rng, grid, num_masked)
        assert mask.shape == grid and mask.dtype == bool
        assert mask.sum() == num_masked


def test_masks_come_in_blocks():
    rng = np.random.default_rng(0)
    masks = np.stack([block_mask(rng, (14, 14), 58) for _ in range(100)])
    # Of independent patches with rate p = 58 / 196, neighbours would agree with p^2 + (1 - p)^2 = 0.58.
    assert (masks[:, 1:] == masks[:, :-1]).mean() > 0.8
    assert (masks[:, :, 1:] == masks[:, :, :-1]).mean() > 0.8


def test_batch_masks_step_through_the_ratios_by_hand():
    # Half of 8 crops are masked; upper ends of four steps from 0.1 to 0.5 are 0.2, 0.3, 0.4, 0.5 of 20 patches.
    masks = batch_masks(np.random.default_rng(0), 8, (4, 5), 0.5, (0.1, 0.5))
    assert masks.shape == (8, 20)
    assert sorted(masks.sum(axis=1)) == [0, 0, 0, 0, 4, 6, 8, 10]


def test_which_crops_are_masked_changes_from_batch_to_batch():
    rng = np.random.default_rng(0)
    is_masked = np.stack([batch_masks(rng, 4, (6, 6)).any(axis=1) for _ in range(200)])
    assert (is_masked.sum(axis=1) == 2).all()
    assert np.abs(is_masked.mean(axis=0) - 0.5).max() < 0.15


def test_the_generator_alone_decides():
    first, again, other = (batch_masks(np.random.default_rng(seed), 6, (7, 7)) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()


def test_no_crop_is_masked_at_probability_zero():
    assert not batch_masks(np.random.default_rng(0), 6, (4, 4), mask_probability=0.0).any()


def test_more_patches_than_the_grid_has_are_refused():
    with pytest.raises(ValueError, match=r"between 0 and 16 patches of grid \(4, 4\); found 17"):
        block_mask(np.random.default_rng(0), (4, 4), 17)


@pytest.mark.parametrize(
    ("field", "value"),
    [("probability", 1.5), ("ratio", (0.5, 0.1)), ("ratio", (0.1, 1.0)), ("ratio", (-0.1, 0.5)), ("ratio", (0.1,))],
)
def test_impossible_masking_is_refused_with_field_value_and_recipe(field, value):
    with pytest.raises(ValueError, match=rf"masking\.{field} must.*; found .*the recipe uses"):
        MaskingConfig(**{field: value})
