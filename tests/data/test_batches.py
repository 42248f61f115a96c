import dataclasses
import itertools

import numpy as np
import pytest
import torch

from dinox_hf.data.batches import PretrainBatch, SliceBatch
from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.data.loader import LoaderSettings, PretrainLoader
from dinox_hf.data.masking import MaskingConfig
from dinox_hf.data.slices import SliceSet
from tests.data.built_set import noisy_series, series_rows, write_built_set

ON_LOADER = CropsConfig(global_size=32, local_size=16, num_local=3, gram_size=64)
ON_DEVICE = dataclasses.replace(ON_LOADER, cut_on="device")


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Three patients with slices of three sizes, one of them with a fill."""
    rows = series_rows(noisy_series(1, (6, 80, 80)), "p1", padding_hu=-1000)
    rows += series_rows(noisy_series(2, (4, 60, 100)), "p2") + series_rows(noisy_series(3, (5, 50, 50)), "p3")
    return SliceSet(write_built_set(tmp_path_factory.mktemp("sets") / "set", {"train-00000-of-00001": rows}))


def settings_of(crops, intensity, **how):
    return LoaderSettings(crops=crops, intensity=intensity, masking=MaskingConfig(), patch_size=8, **how)


def take(slices, crops, num_steps, start_step=0, channels="windows", noise_hu=0.0, **changes):
    arguments = {"batch_size": 4, "accumulate": 2, "seed": 7} | changes
    intensity = IntensityConfig(channels=channels, noise_hu=noise_hu)
    loader = PretrainLoader(slices, settings_of(crops, intensity, **arguments))
    return list(itertools.chain(*itertools.islice(loader.steps(start_step), num_steps)))


def assert_same(found: list[PretrainBatch], expected: list[PretrainBatch]):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, tensor in vars(other).items():
            assert torch.equal(getattr(one, name), tensor), name


@pytest.mark.parametrize("channels", ["windows", "neighbours"])
@pytest.mark.parametrize("noise_hu", [0.0, 40.0])
def test_loader_and_device_cut_the_same_crops(slices, channels, noise_hu):
    ours = take(slices, ON_LOADER, 2, channels=channels, noise_hu=noise_hu)
    theirs = take(slices, ON_DEVICE, 2, channels=channels, noise_hu=noise_hu)
    for by_loader, by_device in zip(ours, theirs, strict=True):
        assert isinstance(by_loader, PretrainBatch) and isinstance(by_device, SliceBatch)
        for name, tensor in vars(by_device.to("cpu")).items():
            torch.testing.assert_close(tensor, getattr(by_loader, name), atol=1e-4, rtol=0, msg=name)
            assert "spacing" not in name or torch.equal(tensor, getattr(by_loader, name)), name


def test_neither_workers_nor_the_first_step_change_a_bit_of_what_the_device_cuts(slices):
    whole = [batch.to("cpu") for batch in take(slices, ON_DEVICE, 4, noise_hu=20.0)]
    assert_same([batch.to("cpu") for batch in take(slices, ON_DEVICE, 4, noise_hu=20.0, num_workers=2)], whole)
    assert_same([batch.to("cpu") for batch in take(slices, ON_DEVICE, 2, start_step=2, noise_hu=20.0)], whole[4:])


def test_a_batch_of_slices_sends_each_slice_once_and_few_tensors(slices):
    (batch, _) = take(slices, ON_DEVICE, 1, channels="neighbours")
    assert batch.slices.slices_hu.shape[:2] == (4, 3) and batch.slices.slices_hu.dtype == torch.int16
    tensors = []
    batch.apply(lambda tensor: tensors.append(tensor) or tensor)
    others = sum(tensor.nbytes for tensor in tensors) - batch.slices.slices_hu.nbytes
    assert len(tensors) == 13 and others < 10_000


def test_without_gram_crops_none_are_cut(slices):
    for crops in (ON_LOADER, ON_DEVICE):
        (batch, _) = take(slices, dataclasses.replace(crops, gram_size=None), 1)
        assert batch.to("cpu").gram_crops is None


@pytest.mark.parametrize("cut_on", ["loader", "device"])
def test_the_spacing_that_is_told_is_the_one_that_the_pixels_show(tmp_path, cut_on):
    # HU rise by 5 a row of 0.8 mm and by 3 a column of 0.7 mm; without distortions a crop rises by as much a mm.
    rows, columns = np.indices((90, 110))
    ramp = np.stack([5 * rows + 3 * columns] * 4).astype(np.int16)
    slices = SliceSet(write_built_set(tmp_path / "set", {"train-00000-of-00001": series_rows(ramp, "p1")}))
    crops = dataclasses.replace(ON_LOADER, cut_on=cut_on, field_mm=40.0, zoom_jitter=1.4, blur_probability=(0, 0, 0))
    intensity = IntensityConfig(jitter_probability=0.0, windows=((0.0, 4000.0),) * 3)
    loader = PretrainLoader(slices, settings_of(crops, intensity, batch_size=4, accumulate=1, seed=3))
    ((batch,),) = itertools.islice(loader.steps(), 1)
    batch = batch.to("cpu")
    for kind, num in (("global", 8), ("local", 12), ("gram", 8)):
        crop_hu = 4000 * 0.229 * getattr(batch, f"{kind}_crops")[:, 0, 4:-4, 4:-4]
        shown_y = crop_hu.diff(dim=1).mean(dim=(1, 2)) / 5 * 0.8
        shown_x = crop_hu.diff(dim=2).mean(dim=(1, 2)).abs() / 3 * 0.7  # a flip turns the sign
        told = getattr(batch, f"{kind}_spacing_mm")
        assert told.shape == (num, 2) and told.dtype == torch.float32
        torch.testing.assert_close(told, torch.stack([shown_y, shown_x], dim=1), rtol=1e-2, atol=0)
        assert told.std() > 0.05 * told.mean()
    # A gram crop shows what its global crop shows.
    torch.testing.assert_close(64 * batch.gram_spacing_mm, 32 * batch.global_spacing_mm)
    assert batch.local_spacing_mm.max() * 16 < batch.global_spacing_mm.max() * 32
