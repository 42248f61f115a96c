import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from dinox_hf import Dinov3CTConfig, Dinov3CTImageProcessor
from dinox_hf.model.image_processing_dinov3_ct import window_hu

SLICE_HU = np.random.default_rng(0).integers(-1024, 1500, (48, 40), dtype=np.int16)


def raw(**kwargs):
    """A processor that shows the windowed values themselves."""
    return Dinov3CTImageProcessor(do_normalize=False, do_resize=False, **kwargs)


def test_the_lung_window_shows_minus_1350_to_150_hu():
    voxels_hu = np.array([-2000, -1350, -600, -225, 150, 3000], dtype=np.int16)
    expected = [0.0, 0.0, 0.5, 0.75, 1.0, 1.0]
    found = window_hu(voxels_hu, -600, 1500)
    assert found.dtype == np.float32 and found.tolist() == expected
    assert window_hu(torch.from_numpy(voxels_hu), -600, 1500).tolist() == expected


def test_three_windows_of_one_slice_become_three_channels():
    slice_hu = np.full((4, 4), 40, dtype=np.int16)
    (pixels,) = raw()(slice_hu).pixel_values
    # 40 HU in lung (-1350..150), mediastinum (-160..240) and bone (-500..1300).
    assert pixels[:, 0, 0].tolist() == pytest.approx([1390 / 1500, 0.5, 540 / 1800])


def test_neighbours_stay_in_order_and_share_the_first_window():
    slices_hu = np.stack([np.full((4, 4), hu, dtype=np.int16) for hu in (-1350, -600, 150)])
    (pixels,) = raw(channels="neighbours")(slices_hu).pixel_values
    assert pixels[:, 0, 0].tolist() == [0.0, 0.5, 1.0]


def test_a_single_slice_is_its_own_neighbour():
    (pixels,) = raw(channels="neighbours")(np.full((4, 4), -600, dtype=np.int16)).pixel_values
    assert pixels.shape == (3, 4, 4) and (pixels == 0.5).all()


def test_the_scanners_fill_is_air_before_it_can_bleed_into_its_neighbours():
    air, filled = np.full((64, 64), -1024, dtype=np.int16), np.full((64, 64), -1024, dtype=np.int16)
    filled[:32] = -2048
    processor = Dinov3CTImageProcessor(padding_hu=-2048, size=20, hu_windows=[[-1500, 2000]] * 3)
    assert np.array_equal(processor(filled).pixel_values, processor(air).pixel_values)
    assert not np.array_equal(processor(filled, padding_hu=-3000).pixel_values, processor(air).pixel_values)


def test_resampling_comes_before_the_window():
    # Half metal, half air: their mean of 1000 HU is what a coarse pixel holds. Windowed first, it would be 0.5.
    stripes = np.tile(np.array([3024, -1024], dtype=np.int16), (32, 16))
    pixels = Dinov3CTImageProcessor(do_normalize=False, size=8)(stripes).pixel_values[0]
    assert pixels[1, 2:-2, 2:-2].min() == 1.0


def test_resampling_keeps_more_than_256_levels():
    slice_hu = np.random.default_rng(1).normal(-600, 100, (256, 256)).astype(np.float32)
    pixels = Dinov3CTImageProcessor(size=224)(slice_hu).pixel_values[0]
    assert len(np.unique(pixels[0])) > 10_000


def test_output_is_normalised_with_imagenet_statistics():
    processor = Dinov3CTImageProcessor(hu_windows=[[-600, 1500]] * 3)
    pixels = processor(np.full((8, 8), -600, dtype=np.int16), return_tensors="pt").pixel_values
    expected = [(0.5 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    assert pixels.dtype == torch.float32 and pixels.shape == (1, 3, 224, 224)
    assert pixels[0, :, 100, 100].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "images",
    [
        torch.from_numpy(SLICE_HU),
        torch.from_numpy(SLICE_HU).float(),
        SLICE_HU[None],
        SLICE_HU.astype(np.float64),
        [SLICE_HU],
        SLICE_HU[None, None],
        Image.fromarray(SLICE_HU.astype(np.int32)),
        Image.fromarray(SLICE_HU.astype(np.float32)),
    ],
    ids=["tensor", "float-tensor", "one-channel", "float64", "list", "batch", "PIL-I", "PIL-F"],
)
def test_every_kind_of_input_gives_the_same_pixels(images):
    processor = Dinov3CTImageProcessor()
    expected = processor(SLICE_HU, return_tensors="pt").pixel_values
    assert torch.equal(processor(images, return_tensors="pt").pixel_values, expected)


def test_slices_of_several_sizes_make_one_batch():
    pixels = Dinov3CTImageProcessor(size=32)(
        [SLICE_HU, SLICE_HU[:30], SLICE_HU[:, :20]], return_tensors="np"
    ).pixel_values
    assert pixels.shape == (3, 3, 32, 32) and pixels.dtype == np.float32


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_photographs_are_scaled_by_255_and_never_windowed(mode):
    colours = np.random.default_rng(2).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = Image.fromarray(colours).convert(mode)
    (pixels,) = raw()(image).pixel_values
    expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(pixels, expected, atol=1e-7)
    np.testing.assert_array_equal(raw()(np.asarray(image)).pixel_values[0], pixels)


def test_a_saved_processor_comes_back_equal(tmp_path):
    processor = Dinov3CTImageProcessor(
        channels="neighbours", padding_hu=-2048, size=96, hu_windows=[[-500, 1400], [40, 400], [400, 1800]]
    )
    processor.save_pretrained(tmp_path)
    Dinov3CTConfig.preset("vit_tiny").save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is Dinov3CTImageProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert np.array_equal(loaded(SLICE_HU).pixel_values, processor(SLICE_HU).pixel_values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": "rgb"}, "'windows' or 'neighbours'; found 'rgb'"),
        ({"hu_windows": [[-600, 1500]]}, "three \\(level, width\\) pairs"),
        ({"hu_windows": [[-600, 1500], [40, 0], [400, 1800]]}, "width above 0 HU"),
        ({"size": {"shortest_edge": 96}}, "a height and a width"),
        ({"resample": 1}, "2 \\(bilinear\\) or 3 \\(bicubic\\)"),
    ],
)
def test_a_wrong_argument_says_what_is_expected(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dinov3CTImageProcessor()(SLICE_HU, **arguments)


@pytest.mark.parametrize(("channels", "shape"), [("windows", (3, 8, 8)), ("neighbours", (5, 8, 8)), ("windows", (8,))])
def test_a_stack_of_the_wrong_depth_names_its_shape(channels, shape):
    with pytest.raises(ValueError, match=f"{channels!r}.*found"):
        Dinov3CTImageProcessor(channels=channels)(np.zeros(shape, dtype=np.int16))


def test_the_spacing_that_comes_back_is_that_of_the_resized_pixels():
    processor = Dinov3CTImageProcessor(size={"height": 24, "width": 80})
    prepared = processor(SLICE_HU, spacing_mm=(0.5, 0.8), return_tensors="pt")  # 48 x 40 pixels: 24 mm by 32 mm
    assert prepared.spacing_mm.dtype == torch.float32
    torch.testing.assert_close(prepared.spacing_mm, torch.tensor([[1.0, 0.4]]))
    assert torch.equal(prepared.pixel_values, processor(SLICE_HU, return_tensors="pt").pixel_values)
    untouched = processor(SLICE_HU, spacing_mm=(0.5, 0.8), do_resize=False)
    np.testing.assert_allclose(untouched.spacing_mm, [[0.5, 0.8]])
    assert "spacing_mm" not in processor(SLICE_HU) and "spacing_mm" not in processor.to_dict()


def test_each_image_of_a_batch_may_have_a_size_and_a_spacing_of_its_own():
    processor, images = Dinov3CTImageProcessor(size=32), [SLICE_HU, SLICE_HU[:32, :32]]
    own = processor(images, spacing_mm=[(0.5, 0.8), (1.0, 2.0)], return_tensors="np").spacing_mm
    np.testing.assert_allclose(own, [[0.75, 1.0], [1.0, 2.0]])
    common = processor(images, spacing_mm=(0.5, 0.8), return_tensors="np").spacing_mm
    np.testing.assert_allclose(common, [[0.75, 1.0], [0.5, 0.8]])


def test_the_spacing_of_a_photograph_follows_its_rows_and_columns_and_not_its_colours():
    colours = np.zeros((6, 12, 3), dtype=np.uint8)
    prepared = Dinov3CTImageProcessor(size=24)(colours, spacing_mm=(4.0, 4.0), return_tensors="np")
    np.testing.assert_allclose(prepared.spacing_mm, [[1.0, 2.0]])


@pytest.mark.parametrize("spacing_mm", [0.7, (2.5, 0.7, 0.7), (0.7, 0.0), (0.7, float("nan")), [(0.7, 0.7)] * 3])
def test_a_spacing_that_is_no_pair_of_millimetres_is_refused(spacing_mm):
    with pytest.raises(ValueError, match=r"\(row, column\) mm per pixel.*found.*take the last two"):
        Dinov3CTImageProcessor()([SLICE_HU, SLICE_HU], spacing_mm=spacing_mm)


def test_a_slice_of_known_spacing_is_shown_at_the_millimetres_of_training():
    processor = Dinov3CTImageProcessor(pixel_mm=0.8, do_resize=False, size={"height": 48, "width": 48})
    slice_hu = np.zeros((100, 60), dtype=np.int16)
    found = processor(slice_hu, spacing_mm=(0.4, 0.8), return_tensors="pt")
    # 100 rows of 0.4 mm are 40 mm, 50 pixels of 0.8 mm; columns have that size already.
    assert found.pixel_values.shape == (1, 3, 50, 60)
    torch.testing.assert_close(found.spacing_mm, torch.tensor([[0.8, 0.8]]))


def test_without_a_spacing_pixels_stay_and_a_size_named_in_the_call_comes_first():
    processor = Dinov3CTImageProcessor(pixel_mm=0.8, do_resize=False, size={"height": 48, "width": 48})
    slice_hu = np.zeros((100, 60), dtype=np.int16)
    assert processor(slice_hu, return_tensors="pt").pixel_values.shape == (1, 3, 100, 60)
    named = processor(slice_hu, size={"height": 48, "width": 48}, spacing_mm=(0.4, 0.8), return_tensors="pt")
    assert named.pixel_values.shape == (1, 3, 48, 48)
    as_given = processor(slice_hu, do_resize=False, spacing_mm=(0.4, 0.8), return_tensors="pt")
    assert as_given.pixel_values.shape == (1, 3, 100, 60)


def test_slices_that_become_unequal_are_refused_with_their_sizes():
    processor = Dinov3CTImageProcessor(pixel_mm=1.0, do_resize=False)
    slices_hu = [np.zeros((16, 16), dtype=np.int16)] * 2
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), \(3, 16, 16\).*one by one"):
        processor(slices_hu, spacing_mm=[(0.5, 0.5), (1.0, 1.0)], return_tensors="pt")
    with pytest.raises(ValueError, match="pixel_mm must be > 0 mm; found -1"):
        processor(slices_hu, pixel_mm=-1.0, return_tensors="pt")
