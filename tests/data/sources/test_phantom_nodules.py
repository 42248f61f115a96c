from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from dinox_hf.data.sources.phantom_nodules import DIFFICULTY, draw_pair, paint_nodule
from dinox_hf.data.sources.phantom_scanner import Grid

LUNG_HU = -850.0


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    return [nodule for _ in range(2000) for nodule in draw_pair(rng)]


@pytest.fixture(scope="module")
def painted():
    """Each row: is malignant, nominal and painted diameter in mm, mean and standard deviation of HU inside."""
    rng = np.random.default_rng(1)
    return np.array([measure(nodule) for _ in range(40) for nodule in draw_pair(rng)])


def measure(nodule):
    grid = Grid((16, 34, 34), (2.5, 1.2, 1.2), (-18.7, -19.9, -19.7))
    hu = np.full(grid.shape, LUNG_HU, np.float32)
    image = paint_nodule(hu, grid, nodule)
    body = image.distance_mm < 0
    area_mm2 = body.sum(axis=(1, 2)).max() * 1.2**2
    inside = hu[image.box][image.distance_mm < -0.6]
    return nodule.is_malignant, nodule.diameter_mm, 2 * np.sqrt(area_mm2 / np.pi), inside.mean(), inside.std()


def test_size_alone_does_not_tell_the_classes(drawn):
    classes = [nodule.is_malignant for nodule in drawn]
    assert np.mean(classes) == 0.5
    assert abs(roc_auc_score(classes, [nodule.diameter_mm for nodule in drawn]) - 0.5) < 1e-9


def test_the_size_that_is_painted_does_not_tell_the_classes_either(painted):
    assert abs(roc_auc_score(painted[:, 0], painted[:, 2]) - 0.5) < 0.05
    np.testing.assert_allclose(painted[:, 2], painted[:, 1], rtol=0.2)
    assert np.mean(painted[:, 2] / painted[:, 1]) == pytest.approx(1, abs=0.04)


def test_mean_hu_is_no_give_away_but_texture_is_a_clue(painted):
    assert abs(roc_auc_score(painted[:, 0], painted[:, 3]) - 0.5) < 0.15
    assert 0.65 < roc_auc_score(painted[:, 0], painted[:, 4]) < 0.95


def test_margin_and_texture_follow_the_class_with_the_stated_probability(drawn):
    for attribute in ("is_spiculated", "is_part_solid"):
        agreement = np.mean([getattr(nodule, attribute) == nodule.is_malignant for nodule in drawn])
        assert agreement == pytest.approx(DIFFICULTY.agreement, abs=0.02)


@pytest.mark.parametrize("attribute", ["is_lobulated", "is_elongated", "calcification"])
def test_other_attributes_are_common_and_independent_of_the_class(drawn, attribute):
    has = np.array([getattr(nodule, attribute) not in (False, 6) for nodule in drawn])
    is_malignant = np.array([nodule.is_malignant for nodule in drawn])
    assert 0.35 < has.mean() < 0.55
    assert abs(has[is_malignant].mean() - has[~is_malignant].mean()) < 0.05


def test_spicules_reach_into_the_lung_where_a_smooth_nodule_does_not():
    nodule = replace(
        draw_pair(np.random.default_rng(0))[0], diameter_mm=12.0, is_lobulated=False, is_elongated=False, seed=1
    )
    grid = Grid((40, 40, 40), (1.0, 1.0, 1.0), (-19.5, -19.5, -19.5))
    radius_mm = np.sqrt(sum(axis**2 for axis in grid.distances((slice(0, 40),) * 3, np.zeros(3))))
    around = (radius_mm > 8.5) & (radius_mm < 12)
    raised = {}
    for is_spiculated in (True, False):
        hu = np.full(grid.shape, LUNG_HU, np.float32)
        paint_nodule(hu, grid, replace(nodule, is_spiculated=is_spiculated))
        raised[is_spiculated] = (hu[around] > LUNG_HU + 100).sum()
    assert raised[False] == 0 and raised[True] > 25
