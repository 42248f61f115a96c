import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from dinox_hf.metrics.localisation import above_chance, score_maps


def test_a_hand_worked_map():
    # Heat 4 3 2 1 on four pixels, object on the first and third.
    scores = score_maps(np.array([[[4.0, 3], [2, 1]]]), np.array([[[1, 0], [1, 0]]]))
    assert scores.hit == [1]
    assert scores.chance == [0.5]
    # 60 % of 10 is reached with 4 + 3: one of two bright pixels is on the object, union three.
    assert scores.iou == pytest.approx([1 / 3])
    assert scores.dice == pytest.approx([2 * 1 / (2 + 2)])
    # precision 1 at the first, 2/3 at the third pixel
    assert scores.auprc == pytest.approx([(1 + 2 / 3) / 2])


def test_a_flat_map_scores_chance_wherever_the_object_lies():
    mask = np.zeros((2, 4, 4), dtype=bool)
    mask[0, 0, :2], mask[1, 3, 2:] = True, True
    scores = score_maps(np.ones((2, 4, 4)), mask)
    # The whole image is bright: all of the object is inside it.
    np.testing.assert_allclose(scores.dice, 2 * scores.chance / (1 + scores.chance))
    for values in (scores.hit, scores.iou, scores.auprc):
        np.testing.assert_allclose(values, scores.chance)
    assert above_chance(scores.hit, scores.chance) == pytest.approx(0)


def test_average_precision_agrees_with_scikit_learn_through_ties():
    rng = np.random.default_rng(1)
    maps, masks = rng.integers(1, 9, (6, 8, 8)), rng.random((6, 8, 8)) < 0.2
    expected = [average_precision_score(mask.ravel(), map_.ravel()) for map_, mask in zip(maps, masks, strict=True)]
    np.testing.assert_allclose(score_maps(maps, masks).auprc, expected, atol=1e-12)


def test_a_map_equal_to_the_mask_is_perfect():
    mask = np.zeros((1, 4, 4), dtype=bool)
    mask[0, 1:3, 1:3] = True
    scores = score_maps(mask.astype(float), mask)
    assert (scores.hit, scores.iou, scores.dice, scores.auprc) == (1, 1, 1, 1)
    assert above_chance(scores.hit, scores.chance) == 1


def test_another_grid_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 4, 4\)"):
        score_maps(np.ones((1, 2, 2)), np.ones((1, 4, 4)))


def test_an_empty_mask_is_refused_by_its_number():
    masks = np.ones((2, 2, 2), dtype=bool)
    masks[1] = False
    with pytest.raises(ValueError, match=r"1 empty masks \(first: \[1\]\)"):
        score_maps(np.ones((2, 2, 2)), masks)
