import numpy as np
import pytest

from dinox_hf.data.volume import Volume, find_padding_hu


def test_spacing_is_z_y_x_and_comes_from_the_affine():
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    volume = Volume(np.zeros((2, 2, 2), np.int16), np.array([0, 2.5]), affine, (), "s", "p", "ct", None)
    assert volume.spacing_mm == (2.5, 0.8, 0.7)
    assert str(volume) == "ct s of p: 2 x 2 x 2 voxels of 2.5 x 0.8 x 0.7 mm (z, y, x)"


@pytest.mark.parametrize(("fill", "found"), [(-2048, -2048), (-3024, -3024), (-1024, None), (-1000, None)])
def test_only_a_fill_darker_than_air_is_padding(fill, found):
    voxels = np.full((4, 20, 20), -800, np.int16)
    voxels[:, :3, :3] = fill
    assert find_padding_hu(voxels) == found


def test_noise_below_air_is_no_padding():
    rng = np.random.default_rng(0)
    voxels = rng.normal(-1020, 60, (8, 64, 64)).astype(np.int16)
    assert (voxels < -1024).mean() > 0.3
    assert find_padding_hu(voxels) is None


def test_a_streak_below_the_fill_does_not_hide_it():
    voxels = np.full((4, 20, 20), 40, np.int16)
    voxels[:, :3, :3] = -2000
    voxels[0, 10, 10] = -3000
    assert find_padding_hu(voxels) == -2000
