import contextlib
import itertools
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from dinox_hf.data.crops import CropsConfig
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.data.loader import PretrainBatch, PretrainLoader, row_at
from dinox_hf.data.masking import MaskingConfig
from dinox_hf.data.slices import SliceSet
from tests.data.built_set import noisy_series, series_rows, write_built_set

CROPS = CropsConfig(global_size=16, local_size=8, num_local=3, gram_size=32)
NUM_ROWS = 10


@pytest.fixture
def slices(tmp_path):
    rows = series_rows(noisy_series(1, (6, 40, 40)), "p1", padding_hu=-1000) + series_rows(
        noisy_series(2, (4, 30, 50)), "p2"
    )
    return SliceSet(write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}))


def loader(slices, **changes):
    arguments = {
        "crops": CROPS,
        "intensity": IntensityConfig(noise_hu=10.0),
        "masking": MaskingConfig(),
        "patch_size": 8,
        "batch_size": 4,
        "accumulate": 2,
        "seed": 7,
    }
    return PretrainLoader(slices, **(arguments | changes))


def take(slices, num_steps, start_step=0, **changes):
    return list(itertools.islice(loader(slices, **changes).steps(start_step), num_steps))


def assert_same(found: list[list[PretrainBatch]], expected: list[list[PretrainBatch]]):
    assert len(found) == len(expected)
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        for name, tensor in vars(other).items():
            assert torch.equal(getattr(one, name), tensor), name


def test_a_step_is_a_list_of_micro_batches_with_crop_major_float32_crops(slices):
    (step,) = take(slices, 1)
    assert len(step) == 2
    for batch in step:
        assert batch.global_crops.shape == (8, 3, 16, 16)
        assert batch.local_crops.shape == (12, 3, 8, 8)
        assert batch.gram_crops.shape == (8, 3, 32, 32)
        assert batch.masks.shape == (8, 4) and batch.masks.dtype == torch.bool
        assert batch.rows.shape == (4,) and batch.rows.dtype == torch.int64
        assert {batch.global_crops.dtype, batch.local_crops.dtype, batch.gram_crops.dtype} == {torch.float32}


def test_crop_0_of_all_slices_stands_before_crop_1(tmp_path):
    flat = np.repeat(np.arange(-700, -300, 100, dtype=np.int16), 16 * 16).reshape(4, 16, 16)
    slices = SliceSet(write_built_set(tmp_path / "set", {"train-00000-of-00001": series_rows(flat, "p1")}))
    ((batch,),) = take(slices, 1, accumulate=1, intensity=IntensityConfig(jitter_probability=0.0))
    brightness = batch.global_crops[:, 0].mean(dim=(1, 2))
    torch.testing.assert_close(brightness[:4], brightness[4:])
    assert torch.equal(brightness[:4].argsort(), batch.rows.argsort())
    torch.testing.assert_close(batch.local_crops[:, 0].mean(dim=(1, 2)), brightness[:4].repeat(3))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_no_bit(slices, num_workers):
    assert_same(take(slices, 4, num_workers=num_workers), take(slices, 4))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_to_start_at_a_step_equals_to_skip_to_it(slices, num_workers):
    assert_same(take(slices, 2, start_step=3, num_workers=num_workers), take(slices, 5)[3:])


def test_two_processes_share_the_examples_of_one_with_the_joined_batch(slices):
    joined = take(slices, 3, batch_size=4)
    halves = [take(slices, 3, batch_size=2, rank=rank, world_size=2) for rank in (0, 1)]
    for step in range(3):
        for micro in range(2):
            whole, (first, second) = joined[step][micro], [half[step][micro] for half in halves]
            assert torch.equal(torch.cat([first.rows, second.rows]), whole.rows)
            for name, num_crops in (("global_crops", 2), ("local_crops", 3), ("gram_crops", 2)):
                parts = [getattr(part, name).unflatten(0, (num_crops, 2)) for part in (first, second)]
                assert torch.equal(torch.cat(parts, dim=1).flatten(0, 1), getattr(whole, name)), name
    assert not torch.equal(halves[0][0][0].masks, halves[1][0][0].masks)


def test_an_epoch_holds_every_row_once_and_the_next_has_another_order():
    epochs = [[row_at(epoch * 50 + place, 50, seed=3) for place in range(50)] for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(50))
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != [row_at(place, 50, seed=4) for place in range(50)]


def test_a_slice_that_comes_again_is_cut_anew(slices):
    batches = list(itertools.chain(*take(slices, 5, crops=CropsConfig(global_size=16, local_size=8, num_local=0))))
    rows = torch.cat([batch.rows for batch in batches]).tolist()
    crops = torch.cat([batch.global_crops[:4] for batch in batches])
    assert sorted(rows) == sorted(list(range(NUM_ROWS)) * 4)
    first, second = [place for place, row in enumerate(rows) if row == 0][:2]
    assert not torch.equal(crops[first], crops[second])


def test_every_micro_batch_has_masks_of_its_own(slices):
    crops = CropsConfig(global_size=64, local_size=8, num_local=0)
    masks = [batch.masks for batch in itertools.chain(*take(slices, 2, crops=crops))]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(masks, 2))
    assert all((batch.any(dim=1).sum() == 4).item() for batch in masks)  # half of the 8 global crops


def test_neighbours_are_read_when_the_channels_are_neighbours(tmp_path):
    levels = np.repeat(np.array([-900, -600, -300], dtype=np.int16), 16 * 16).reshape(3, 16, 16)
    slices = SliceSet(write_built_set(tmp_path / "set", {"train-00000-of-00001": series_rows(levels, "p1")}))
    intensity = IntensityConfig(channels="neighbours", jitter_probability=0.0, windows=((-600, 1000),) * 3)
    ((batch,),) = take(slices, 1, accumulate=1, batch_size=3, intensity=intensity)
    middle = batch.global_crops[batch.rows.tolist().index(1)].mean(dim=(1, 2))
    expected = (torch.tensor([0.2, 0.5, 0.8]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(middle, expected, atol=1e-4, rtol=0)


def test_the_loader_leaves_the_global_generators_alone(slices):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    take(slices, 1, num_workers=1)
    assert torch.equal(torch.rand(1), expected)


def test_a_batch_moves_as_a_whole_and_keeps_its_absent_gram_crops_absent(slices):
    ((batch,),) = take(slices, 1, accumulate=1, crops=CropsConfig(global_size=16, local_size=8))
    moved = batch.to("meta")
    assert moved.gram_crops is None
    assert {tensor.device.type for tensor in vars(moved).values() if tensor is not None} == {"meta"}
    assert moved.global_crops.shape == batch.global_crops.shape


def test_a_crop_that_is_no_multiple_of_the_patch_names_the_nearest_that_is(slices):
    with pytest.raises(ValueError, match=r"crops.local_size must be a multiple of the patch size 16; found 100.*96"):
        loader(slices, patch_size=16, crops=CropsConfig(local_size=100))


def test_a_signal_to_all_processes_does_not_stop_the_workers(slices):
    steps = loader(slices, num_workers=1).steps()
    found = [next(steps)]
    worker = multiprocessing.active_children()[-1]
    os.kill(worker.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGINT)
    found += [next(steps) for _ in range(3)]
    assert_same(found, take(slices, 4))
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)  # a crashed run ends its workers with a second one
    with contextlib.suppress(RuntimeError):  # DataLoader notices
        worker.join(timeout=10)
    assert not worker.is_alive()
