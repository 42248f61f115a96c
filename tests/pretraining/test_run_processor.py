import numpy as np
import pytest

from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.run import image_processor


def test_the_published_processor_shows_slices_at_the_scale_of_the_crops():
    whole = image_processor(PretrainConfig())
    assert whole.do_resize and whole.pixel_mm is None and whole.size["height"] == 224
    field = image_processor(PretrainConfig(crops=CropsConfig(field_mm=40.0, global_size=48)))
    # 40 mm on 48 pixels: a chest of 350 mm is 420 pixels wide, not squeezed into 48.
    assert not field.do_resize and field.pixel_mm == pytest.approx(40 / 48)
    slice_hu = np.zeros((64, 64), dtype=np.int16)
    assert field(slice_hu, spacing_mm=(350 / 64, 350 / 64), return_tensors="pt").pixel_values.shape[-2:] == (420, 420)
