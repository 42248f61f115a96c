"""What is drawn of the fixed slices, and that drawing leaves the teacher as it was."""

import numpy as np
import torch

from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.pretraining.pictures import draw_slices, teacher_view


def test_attention_and_colours_lie_on_the_patch_grid(tmp_path):
    torch.manual_seed(0)
    backbone = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny")).train()
    pixel_values = torch.randn(3, 3, 48, 48)
    view = teacher_view(backbone, pixel_values)
    assert backbone.training and backbone.config._attn_implementation == "sdpa"
    assert view.attention.shape == (3, 6, 6) and view.colours.shape == (3, 6, 6, 3)
    # The rest of the attention goes to CLS and register tokens.
    sums = view.attention.sum((1, 2))
    assert (view.attention >= 0).all() and (sums > 0).all() and (sums < 1).all()
    assert view.colours.min() >= 0 and view.colours.max() <= 1
    picture = draw_slices(tmp_path / "pictures" / "step.png", pixel_values, view, "teacher after 3 steps")
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    assert (tmp_path / "pictures" / "step.png").read_bytes().startswith(b"\x89PNG")


def test_equal_slices_get_equal_colours_and_attention():
    torch.manual_seed(0)
    backbone = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny"))
    slice_, other = torch.randn(2, 1, 3, 32, 32)
    view = teacher_view(backbone, torch.cat([slice_, other, slice_]))
    np.testing.assert_allclose(view.colours[0], view.colours[2], atol=1e-5)
    np.testing.assert_allclose(view.attention[0], view.attention[2], atol=1e-6)
    assert np.abs(view.attention[0] - view.attention[1]).max() > 1e-4
