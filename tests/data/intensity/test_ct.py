import numpy as np
import pytest

from dinox_hf.data.intensity.ct import UNCHANGED, IntensityConfig, IntensityDraw, draw_intensity, to_channels
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def crop_of(*hu):
    """One pixel for each slice."""
    return np.array(hu, dtype=np.float32)[:, None, None]


def shown(crop_hu, config, draw=UNCHANGED):
    """Channels before normalisation, so that windows can be read off."""
    return to_channels(crop_hu, config, draw)[:, 0, 0] * STD + MEAN


def test_one_slice_is_seen_through_lung_mediastinal_and_bone_window():
    expected = [(40 + 1350) / 1500, 0.5, (40 + 500) / 1800]
    np.testing.assert_allclose(shown(crop_of(40), IntensityConfig()), expected, atol=1e-6)


def test_neighbours_go_through_the_first_window():
    config = IntensityConfig(channels="neighbours", windows=((-600, 1000), (0, 1), (0, 1)))
    np.testing.assert_allclose(shown(crop_of(-1200, -600, -350), config), [0, 0.5, 0.75], atol=1e-6)


def test_training_and_image_processor_give_the_same_channels():
    crop_hu = np.random.default_rng(0).uniform(-1500, 1500, (1, 32, 32)).astype(np.float32)
    processor = Dinov3CTImageProcessor(size={"height": 32, "width": 32})
    pixel_values = processor(crop_hu[0], return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(to_channels(crop_hu, IntensityConfig()), pixel_values, atol=1e-5)


def test_jitter_moves_all_levels_together_and_widens_all_windows():
    draw = IntensityDraw(level_shift_hu=50, width_factor=1.2)
    expected = [0.5 + (40 + 550) / 1800, 0.5 - 50 / 480, 0.5 + (40 - 450) / 2160]
    np.testing.assert_allclose(shown(crop_of(40), IntensityConfig(), draw), expected, atol=1e-6)


def test_noise_is_in_hounsfield_units_and_the_same_in_all_windows_of_a_slice():
    config = IntensityConfig(windows=((0, 4000), (0, 4000), (0, 8000)))
    channels = to_channels(np.zeros((1, 200, 200), np.float32), config, IntensityDraw(noise_sigma_hu=30, noise_seed=1))
    first, second, third = channels * STD[:, None, None] + MEAN[:, None, None] - 0.5
    assert first.std() * 4000 == pytest.approx(30, rel=0.02)
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(first, 2 * third, atol=1e-6)


def test_draws_stay_in_range_and_come_as_often_as_configured():
    config = IntensityConfig(jitter_probability=0.8, level_jitter_hu=40, width_jitter=0.1, noise_hu=25)
    rng = np.random.default_rng(0)
    draws = [draw_intensity(rng, config) for _ in range(2000)]
    assert np.mean([draw.level_shift_hu != 0 for draw in draws]) == pytest.approx(0.8, abs=0.03)
    assert 38 < max(abs(draw.level_shift_hu) for draw in draws) <= 40
    assert 0.9 <= min(draw.width_factor for draw in draws) < 0.91
    assert 24 < max(draw.noise_sigma_hu for draw in draws) <= 25
    assert len({draw.noise_seed for draw in draws}) == 2000


def test_the_wrong_number_of_slices_names_both_modes():
    with pytest.raises(ValueError, match=r"'neighbours'.*3 slice.*found a crop of shape \(1, 1, 1\)"):
        to_channels(crop_of(0), IntensityConfig(channels="neighbours"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"windows": ((40, 400),)}, r"three pairs \[level, width\].*found \(\(40, 400\),\)"),
        ({"windows": ((40, 0),) * 3}, "widths > 0 HU"),
        ({"jitter_probability": 1.5}, "between 0 and 1; found 1.5"),
        ({"width_jitter": 1.0}, "width_jitter from 0 to below 1"),
    ],
)
def test_a_wrong_configuration_names_the_field(wrong, message):
    with pytest.raises(ValueError, match=message):
        IntensityConfig(**wrong)
