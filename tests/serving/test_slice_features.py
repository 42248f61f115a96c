import numpy as np
import pytest
import torch

from dinox_hf.serving.slice_features import EncodingConfig, encode_slice
from tests.serving.conftest import ball_hu, tiny_backbone

SPACING = (0.8, 0.7)


@pytest.fixture(scope="module")
def slice_hu():
    return ball_hu()[3]


def test_whole_slices_give_the_tokens_of_a_plain_call(backbone, slice_hu):
    found = encode_slice(backbone, slice_hu, SPACING)
    with torch.no_grad():
        inputs = backbone.processor(slice_hu, do_resize=False, return_tensors="pt")
        expected = backbone.model(**inputs).last_hidden_state[0, 1 + backbone.model.config.num_register_tokens :]
    assert found.tokens.shape == (6, 5, 32)
    np.testing.assert_allclose(found.tokens.reshape(30, 32), expected.numpy(), atol=1e-3)


def test_where_tiles_overlap_their_tokens_are_averaged(backbone, slice_hu):
    """Tiles of 4 patches on 6 rows: rows 2 and 3 are seen twice, column 1 … 3 too."""
    found = encode_slice(backbone, slice_hu, SPACING, config=EncodingConfig(tile_px=32, overlap=0.5))
    alone = {
        (row, column): encode_slice(backbone, slice_hu[8 * row : 8 * row + 32, 8 * column : 8 * column + 32], SPACING)
        for row in (0, 2)
        for column in (0, 1)
    }
    np.testing.assert_allclose(found.tokens[0, 0], alone[0, 0].tokens[0, 0], atol=1e-4)
    np.testing.assert_allclose(found.tokens[5, 4], alone[2, 1].tokens[3, 3], atol=1e-4)
    four = [alone[r, c].tokens[3 - r, 2 - c] for r in (0, 2) for c in (0, 1)]
    np.testing.assert_allclose(found.tokens[3, 2], np.mean(four, axis=0), atol=1e-4)


def test_similarity_is_one_at_the_point_and_higher_in_the_ball(backbone, slice_hu):
    found = encode_slice(backbone, slice_hu, SPACING)
    similarity = found.similarity(20, 28)
    assert np.unravel_index(similarity.argmax(), similarity.shape) == found.grid.patch_of(20, 28) == (2, 3)
    assert similarity[2, 3] == pytest.approx(1, abs=1e-5) and found.on_slice(similarity).shape == slice_hu.shape


def test_colours_are_black_in_air_alone(backbone):
    slice_hu = ball_hu()[3]
    slice_hu[:, :8] = -1024
    colours = encode_slice(backbone, slice_hu, SPACING).colours()
    assert (colours[:, 0] == 0).all() and (colours[:, 1:].sum(axis=-1) > 0).all()


def test_attention_is_that_of_the_last_layer(backbone, slice_hu):
    found = encode_slice(backbone, slice_hu, SPACING, with_attention=True)
    with torch.no_grad():
        rows = backbone.model.cls_attention_rows(**backbone.processor(slice_hu, do_resize=False, return_tensors="pt"))[
            -1
        ]
    expected = rows[0, :, 0, 1 + backbone.model.config.num_register_tokens :].unflatten(-1, (6, 5))
    np.testing.assert_allclose(found.attention, expected.numpy(), atol=1e-5)


def test_padding_is_seen_as_air(backbone, slice_hu):
    padded, plain = slice_hu.copy(), slice_hu.copy()
    padded[:9], plain[:9] = -2000, -1024
    found = encode_slice(backbone, padded, SPACING, padding_hu=-2000)
    np.testing.assert_array_equal(found.tokens, encode_slice(backbone, plain, SPACING).tokens)


def test_slices_that_the_backbone_does_not_take_are_refused(backbone, slice_hu):
    with pytest.raises(ValueError, match=r"channels='windows' takes 1 slice .* found \(3, 48, 40\)"):
        encode_slice(backbone, np.stack([slice_hu] * 3), SPACING)
    with pytest.raises(ValueError, match=r"channels='neighbours' takes 3 slices .* found \(1, 48, 40\)"):
        encode_slice(tiny_backbone(channels="neighbours"), slice_hu, SPACING)
    with pytest.raises(ValueError, match=r"int16 HU.*found float64"):
        encode_slice(backbone, slice_hu / 1000, SPACING)
    with pytest.raises(ValueError, match=r"multiple of the patch size 8; found 20\. Take 16"):
        encode_slice(backbone, slice_hu, SPACING, config=EncodingConfig(tile_px=20))
    with pytest.raises(ValueError, match=r"overlap must be from 0 to below 1.*found 1"):
        EncodingConfig(overlap=1)


def test_tokens_that_are_no_numbers_are_refused(slice_hu):
    broken = tiny_backbone()
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    with pytest.raises(ValueError, match=r"finite numbers"):
        encode_slice(broken, slice_hu, SPACING)
