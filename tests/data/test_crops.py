import dataclasses

import numpy as np
import pytest

from dinox_hf.data.crops import Box, CropGeometry, MultiCrop, cut_hu, draw_box, draw_crop, draw_field, draw_zoom
from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.intensity.ct import UNCHANGED, IntensityConfig, to_channels

SMALL = CropsConfig(global_size=32, local_size=16, num_local=3, gram_size=64)
STILL = IntensityConfig(jitter_probability=0.0)
SPACING = (0.8, 0.8)


def rng(seed=0):
    return np.random.default_rng(seed)


def in_fields_of(field_mm, **changes):
    return CropsConfig(field_mm=field_mm, **changes)


def ramp_slice():
    """HU that name their place: 8 per row, 1 per column."""
    return (8 * np.arange(100)[:, None] + np.arange(120)[None] - 500).astype(np.int16)


def test_shapes_and_types_of_all_crops():
    crops = MultiCrop(SMALL, STILL)(ramp_slice()[None], SPACING, None, rng())
    assert crops.global_crops.shape == (2, 3, 32, 32)
    assert crops.local_crops.shape == (3, 3, 16, 16)
    assert crops.gram_crops.shape == (2, 3, 64, 64)
    assert {crops.global_crops.dtype, crops.local_crops.dtype, crops.gram_crops.dtype} == {np.dtype(np.float32)}


def test_without_local_and_gram_crops_only_the_global_ones_are_cut():
    config = CropsConfig(global_size=32, local_size=16, num_local=0)
    crops = MultiCrop(config, STILL)(ramp_slice()[None], SPACING, None, rng())
    assert crops.local_crops.shape == (0, 3, 16, 16)
    assert crops.gram_crops is None


def test_the_generator_decides_everything():
    intensity = IntensityConfig(noise_hu=20.0)
    first, again, other = (MultiCrop(SMALL, intensity)(ramp_slice()[None], SPACING, None, rng(s)) for s in (5, 5, 6))
    for name in ("global_crops", "local_crops", "gram_crops"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_gram_crops_show_the_global_crops_box_and_flip_without_blur_jitter_and_noise():
    config = dataclasses.replace(SMALL, gram_size=32, blur_probability=(0.0, 0.0, 0.0))
    crops = MultiCrop(config, STILL)(ramp_slice()[None], SPACING, None, rng())
    np.testing.assert_array_equal(crops.gram_crops, crops.global_crops)

    distorted = dataclasses.replace(config, blur_probability=(1.0, 1.0, 1.0), blur_sigma=(1.0, 1.0))
    loud = IntensityConfig(jitter_probability=1.0, noise_hu=100.0)
    clean = MultiCrop(distorted, STILL)(ramp_slice()[None], SPACING, None, rng())
    noisy = MultiCrop(distorted, loud)(ramp_slice()[None], SPACING, None, rng())
    for crops in (clean, noisy):
        assert np.abs(crops.gram_crops - crops.global_crops).max() > 0.01
        # Averaged over patches of 8 pixels the two agree about what lies where: the boxes are the same.
        patches = [
            crop.reshape(2, 3, 4, 8, 4, 8).mean(axis=(3, 5)).ravel() for crop in (crops.gram_crops, crops.global_crops)
        ]
        assert np.corrcoef(*patches)[0, 1] > 0.9


def test_patches_of_a_larger_gram_crop_lie_on_those_of_its_global_crop():
    geometry = CropGeometry(Box(10.3, 20.7, 55.5, 64.2), output_size=32, flip=True, blur_sigma_px=0.0)
    crop = cut_hu(ramp_slice()[None], geometry, None)
    gram = cut_hu(ramp_slice()[None], geometry._replace(output_size=64), None)
    by_patch = crop.reshape(4, 8, 4, 8).mean(axis=(1, 3)), gram.reshape(4, 16, 4, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(*by_patch, atol=1.0)  # a patch to the side differs by 16 HU, one below by 111


def test_a_crop_keeps_rows_to_posterior_and_columns_to_the_left_unless_flipped():
    geometry = CropGeometry(Box(10.0, 20.0, 40.0, 40.0), output_size=16)
    crop = cut_hu(ramp_slice()[None], geometry, None)[0]
    assert (np.diff(crop, axis=0) > 0).all()
    assert (np.diff(crop, axis=1) > 0).all()
    assert (np.diff(cut_hu(ramp_slice()[None], geometry._replace(flip=True), None)[0], axis=1) < 0).all()


def test_padding_becomes_air_in_every_crop_while_the_slice_stays_as_stored():
    slice_hu = np.full((100, 120), -2048, dtype=np.int16)
    crops = MultiCrop(SMALL, STILL)(slice_hu[None], SPACING, -2048, rng())
    air = to_channels(np.full((1, 16, 16), -1024, dtype=np.float32), STILL)
    np.testing.assert_allclose(crops.local_crops, np.broadcast_to(air, crops.local_crops.shape), atol=1e-3)
    # The lung window ends at -1350 HU, so -2048 itself would have come out darker.
    assert not np.allclose(crops.local_crops[0], to_channels(np.full((1, 16, 16), -2048, dtype=np.float32), STILL))
    assert (slice_hu == -2048).all()


def test_boxes_lie_in_their_field_with_area_and_aspect_in_range():
    field = Box(10.5, 20.25, 60.0, 60.0)
    generator = rng()
    boxes = np.array([draw_box(generator, field, (0.05, 0.32), (3 / 4, 4 / 3)) for _ in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 10.5).all() and (left >= 20.25).all()
    assert (top + height <= 70.5 + 1e-9).all() and (left + width <= 80.25 + 1e-9).all()
    share, aspect = height * width / 3600, width / height
    assert 0.05 <= share.min() < 0.06 and 0.31 < share.max() <= 0.32
    assert 3 / 4 <= aspect.min() < 0.76 and 1.32 < aspect.max() <= 4 / 3
    assert np.median(share) == pytest.approx(0.185, abs=0.01)  # uniform in area
    assert np.median(np.log(aspect)) == pytest.approx(0.0, abs=0.03)  # and in the logarithm of the aspect


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (Box(0, 0, 10, 100), Box(0, 43.333, 10, 13.333)),  # too wide: as high as the field, 4/3 as wide, in the middle
        (Box(5, 0, 100, 12), Box(47, 0, 16, 12)),  # too high: as wide as the field, 4/3 as high
    ],
)
def test_a_field_that_admits_no_box_gives_its_central_one(field, expected):
    box = draw_box(rng(), field, (1.0, 1.0), (3 / 4, 4 / 3))
    np.testing.assert_allclose(box, expected, atol=1e-3)


def test_flips_and_blurs_come_as_often_as_configured():
    config = CropsConfig(horizontal_flip=0.25, blur_sigma=(0.2, 0.6))
    generator = rng()
    crops = [draw_crop(generator, Box(0, 0, 99, 99), (0.05, 0.3), 96, 0.9, config) for _ in range(2000)]
    assert np.mean([crop.flip for crop in crops]) == pytest.approx(0.25, abs=0.03)
    sigmas = np.array([crop.blur_sigma_px for crop in crops])
    assert np.mean(sigmas > 0) == pytest.approx(0.9, abs=0.02)
    assert sigmas[sigmas > 0].min() >= 0.2 and sigmas.max() <= 0.6


def test_the_first_global_crop_is_never_blurred_by_default():
    config = dataclasses.replace(SMALL, gram_size=32)
    for seed in range(5):
        crops = MultiCrop(config, STILL)(ramp_slice()[None], SPACING, None, rng(seed))
        np.testing.assert_array_equal(crops.global_crops[0], crops.gram_crops[0])


def test_a_field_has_its_size_in_millimetres():
    field = draw_field(rng(), np.zeros((300, 400), dtype=np.int16), in_fields_of(60.0), (0.5, 0.75), None)
    assert (field.height, field.width) == (120, 80)
    assert 0 <= field.top <= 180 and 0 <= field.left <= 320


def test_a_field_larger_than_the_slice_is_the_slice():
    slice_hu = np.zeros((100, 120), dtype=np.int16)
    assert draw_field(rng(), slice_hu, in_fields_of(500.0), SPACING, None) == (0, 0, 100, 120)
    assert draw_field(rng(), slice_hu, in_fields_of(None), SPACING, None) == (0, 0, 100, 120)


@pytest.mark.parametrize(("outside", "padding_hu"), [(-1000, None), (-2048, -2048), (0, 0)])
def test_fields_prefer_the_body_to_air_and_padding(outside, padding_hu):
    slice_hu = np.full((200, 200), outside, dtype=np.int16)
    slice_hu[50:150, 50:150] = -850  # lung is not air
    generator = rng()

    def share_of_body(field):
        rows = min(field.top + 30, 150) - max(field.top, 50)
        columns = min(field.left + 30, 150) - max(field.left, 50)
        return max(rows, 0) * max(columns, 0) / 900

    shares = [
        share_of_body(draw_field(generator, slice_hu, in_fields_of(30.0), (1.0, 1.0), padding_hu)) for _ in range(300)
    ]
    # A field at random meets the body in a third of all cases; of eight, one does with 1 - (2/3)^8 = 0.96.
    assert np.mean(np.array(shares) > 0.45) > 0.9


def test_fields_of_lung_hold_lung_and_something_in_it():
    slice_hu = np.full((200, 200), 40, dtype=np.int16)
    slice_hu[:, :100] = -850
    config = in_fields_of(40.0, field_hu=(-950, -500), field_share=(0.5, 0.9))
    generator = rng()
    fields = [draw_field(generator, slice_hu, config, (1.0, 1.0), None) for _ in range(300)]
    shares = np.array([np.clip((100 - field.left) / 40, 0, 1) for field in fields])
    # One field in ten lies right at random (left edge from 64 to 80 of 160); of eight, one does with 0.57.
    assert 0.45 < np.mean((shares > 0.45) & (shares < 0.95)) < 0.75


def test_all_crops_of_an_example_come_from_its_field():
    config = dataclasses.replace(SMALL, field_mm=24.0, blur_probability=(0.0, 0.0, 0.0))  # 30 pixels of 0.8 mm
    lines = np.tile(np.arange(-600, 600, 10, dtype=np.int16), (100, 1))  # 10 HU a column: a field spans 300 HU
    intensity = IntensityConfig(jitter_probability=0.0, windows=((0.0, 4000.0),) * 3)
    for seed in range(10):
        crops = MultiCrop(config, intensity)(lines[None], SPACING, None, rng(seed))
        shown = np.concatenate([crops.global_crops[:, 0].ravel(), crops.local_crops[:, 0].ravel()])
        span_hu = (shown.max() - shown.min()) * 0.229 * 4000
        assert 100 < span_hu < 330


def test_neighbours_are_cut_from_one_box():
    slices_hu = np.stack([ramp_slice() - 100, ramp_slice(), ramp_slice() + 100])
    intensity = IntensityConfig(channels="neighbours", jitter_probability=0.0)
    geometry = CropGeometry(Box(10.0, 20.0, 40.0, 40.0), output_size=16, flip=True, blur_sigma_px=0.7)
    crop_hu = cut_hu(slices_hu, geometry, None)
    np.testing.assert_allclose(np.diff(crop_hu, axis=0), 100, atol=1e-2)
    assert to_channels(crop_hu, intensity, UNCHANGED).shape == (3, 16, 16)
    assert MultiCrop(SMALL, intensity)(slices_hu, SPACING, None, rng()).global_crops.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"global_scale": (0.5, 1.5)}, r"crops.global_scale must be 0 < low <= high <= 1; found \(0.5, 1.5\)"),
        ({"local_size": 4}, r"crops must be >= 8 px; found 4"),
        ({"gram_size": 0}, r"crops must be >= 8 px; found 0"),
        ({"num_local": -1}, r"crops.num_local must be >= 0; found -1"),
        ({"blur_probability": (0.0, 9.0, 0.5)}, r"between 0 and 1; found 9.0"),
        ({"blur_sigma": (0.0, 1.0)}, r"crops.blur_sigma.*blur_probability 0 means none"),
        ({"aspect_ratio": (2.0, 1.0)}, r"crops.aspect_ratio must be 0 < low <= high"),
        ({"field_share": (0.9, 0.5)}, r"crops.field_share must be 0 <= low <= high <= 1; found \(0.9, 0.5\)"),
        ({"field_hu": (0.0, -500.0)}, r"crops.field_hu must be low < high; found \(0.0, -500.0\)"),
        ({"field_mm": 0.0}, r"crops.field_mm must be > 0 mm; found 0.0.*null takes the whole slice"),
    ],
)
def test_a_wrong_configuration_names_the_field_and_the_way_out(wrong, message):
    with pytest.raises(ValueError, match=message):
        CropsConfig(**wrong)


def test_the_spacing_of_a_crop_is_its_box_in_millimetres_over_its_pixels_flipped_or_not():
    geometry = CropGeometry(Box(10.0, 20.0, 40.0, 30.0), output_size=20)
    assert geometry.spacing_mm((0.5, 0.8)) == pytest.approx((1.0, 1.2))
    assert geometry._replace(flip=True).spacing_mm((0.5, 0.8)) == geometry.spacing_mm((0.5, 0.8))


def test_zoom_is_log_uniform_between_its_limits_and_nothing_is_drawn_without_it():
    generator = rng()
    zooms = np.log([draw_zoom(generator, 1.5) for _ in range(2000)]) / np.log(1.5)
    assert -1 <= zooms.min() < -0.98 and 0.98 < zooms.max() <= 1
    assert np.mean(zooms) == pytest.approx(0, abs=0.04) and np.mean(np.abs(zooms)) == pytest.approx(0.5, abs=0.03)
    still, untouched = rng(), rng()
    assert draw_zoom(still, None) == 1.0 and still.random() == untouched.random()


def test_zoom_stretches_the_field_and_all_crops_of_an_example_with_it():
    config = dataclasses.replace(SMALL, field_mm=24.0, global_scale=(1.0, 1.0), aspect_ratio=(1.0, 1.0))
    zoomed = dataclasses.replace(config, zoom_jitter=1.5)

    def sides_mm(crops, seed):
        draws = MultiCrop(crops, STILL).draw(ramp_slice()[None], SPACING, None, rng(seed)).global_crops
        spacing_mm = [draw.geometry.spacing_mm(SPACING) for draw in draws]
        return [32 * side for pair in spacing_mm for side in pair]

    np.testing.assert_allclose([sides_mm(config, seed) for seed in range(5)], 24.0)
    sides = np.array([sides_mm(zoomed, seed) for seed in range(30)])
    np.testing.assert_allclose(sides, np.tile(sides[:, :1], 4))  # both axes of both global crops
    assert 16 <= sides.min() < 18 and 33 < sides.max() <= 36


def test_a_zoom_needs_a_field():
    with pytest.raises(ValueError, match=r"crops.field_mm must be given with crops.zoom_jitter; found None"):
        CropsConfig(zoom_jitter=1.5)
    with pytest.raises(ValueError, match=r"crops.zoom_jitter must be >= 1; found 0.5"):
        CropsConfig(field_mm=60.0, zoom_jitter=0.5)
