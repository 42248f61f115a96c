"""A loader over the tiny set: two series of six and five slices."""

import pytest

from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.data.loader import LoaderSettings, PretrainLoader
from dinox_hf.data.masking import MaskingConfig
from dinox_hf.data.slices import SliceSet
from tests.training.tiny import tiny_set


@pytest.fixture(scope="session")
def loader(tmp_path_factory):
    slices = SliceSet(tiny_set(tmp_path_factory.mktemp("set") / "built"))
    crops = CropsConfig(global_size=32, local_size=16, num_local=2)
    settings = LoaderSettings(
        crops=crops,
        intensity=IntensityConfig(),
        masking=MaskingConfig(),
        patch_size=8,
        batch_size=2,
        accumulate=2,
        seed=0,
    )
    return PretrainLoader(slices, settings)
