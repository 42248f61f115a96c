import numpy as np
import pytest
import torch

from dinox_hf.data.volume import Volume
from dinox_hf.evaluation.backbones.features import Backbone
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel


def tiny_backbone(**processor) -> Backbone:
    """A random backbone of patches of 8 pixels, 32 wide."""
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Dinov3CTConfig.preset("vit_tiny", **sizes, patch_size=8, pos_embed_rescale=None, layerscale_value=0.1)
    return Backbone(Dinov3CTModel(config).eval(), Dinov3CTImageProcessor(**processor), "0123456789abcdef")


def ball_hu(shape=(6, 48, 40), centre=(3, 20, 28), radius=(1.2, 5, 5)) -> np.ndarray:
    """Lung with noise, air beside it, and a dense ball in it: (Z, Y, X) int16 HU."""
    z, y, x = np.indices(shape)
    distance = sum(((i - c) / r) ** 2 for i, c, r in zip((z, y, x), centre, radius, strict=True))
    voxels = np.random.default_rng(0).normal(-850, 25, shape)
    voxels[:, :, :4] = -1024
    voxels[distance <= 1] = 40
    return voxels.astype(np.int16)


def oblique_volume(voxels: np.ndarray | None = None) -> Volume:
    """A volume whose axes are turned a little against the patient's."""
    turn = np.deg2rad(8)
    axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = axes * [0.7, 0.8, 2.5]
    affine[:3, 3] = (-90.0, -120.0, -300.0)
    voxels = ball_hu() if voxels is None else voxels
    z_mm = -300 + 2.5 * np.arange(len(voxels))
    return Volume(voxels, z_mm, affine, (), "series-1", "P-1", "ct", None)


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="session")
def volume() -> Volume:
    return oblique_volume()


@pytest.fixture(scope="session")
def features(backbone, volume, tmp_path_factory):
    import dinox_hf

    return dinox_hf.encode_volume(volume, backbone, tmp_path_factory.mktemp("features") / "out", progress=False)
