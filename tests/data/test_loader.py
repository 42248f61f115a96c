import contextlib
import itertools
import multiprocessing
import os
import re
import signal

import numpy as np
import pytest
import torch

from dinox_hf.data.batches import PretrainBatch
from dinox_hf.data.crops_config import CropsConfig, CropSizes
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.data.loader import LoaderSettings, PretrainLoader
from dinox_hf.data.masking import MaskingConfig
from dinox_hf.data.mixture import SliceMixture
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
    return PretrainLoader(slices, LoaderSettings(**(arguments | changes)))


def take(slices, num_steps, start_step=0, **changes):
    return list(itertools.islice(loader(slices, **changes).steps(start_step), num_steps))


def assert_same(found: list[list[PretrainBatch]], expected: list[list[PretrainBatch]]):
    assert len(found) == len(expected)
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        for name, tensor in vars(other).items():
            found_tensor = getattr(one, name)
            assert found_tensor is tensor is None or torch.equal(found_tensor, tensor), name


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


@pytest.fixture
def many_series(tmp_path):
    """32 series of 3 to 5 slices: 128 rows."""
    lengths = [3, 4, 5] * 10 + [4, 4]
    series = [series_rows(noisy_series(n, (length, 16, 16)), f"p{n}") for n, length in enumerate(lengths)]
    return SliceSet(write_built_set(tmp_path / "many", {"train-00000-of-00001": list(itertools.chain(*series))}))


LIGHT = {"crops": CropsConfig(global_size=8, local_size=8, num_local=0), "batch_size": 3, "accumulate": 2}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_processes_read_every_row_of_an_epoch_once_and_no_series_twice_in_a_step(many_series, world_size, num_workers):
    num_steps = 2 * len(many_series) // (6 * world_size)
    ranks = [
        take(many_series, num_steps, rank=rank, world_size=world_size, num_workers=num_workers, **LIGHT)
        for rank in range(world_size)
    ]
    steps = [[batch.rows for rank in ranks for batch in rank[step]] for step in range(num_steps)]
    series = np.repeat(np.arange(many_series.num_series), many_series.series_lengths)
    for rows in steps:
        rows = torch.cat(rows).tolist()
        assert len({series[row] for row in rows}) == len(rows) == 6 * world_size
    in_order = [rank[step][micro].rows for step in range(num_steps) for micro in range(2) for rank in ranks]
    rows = torch.cat(in_order).tolist()
    assert sorted(rows[:128]) == list(range(128))
    assert len(set(rows[128:])) == len(rows[128:])


def test_where_a_step_is_too_large_each_micro_batch_keeps_series_apart_and_the_user_is_told(many_series):
    found = loader(many_series, **(LIGHT | {"batch_size": 16}))
    assert found.spread_note.startswith("A step of 32 slices holds several of a series, each 16 of them at most one")
    series = np.repeat(np.arange(many_series.num_series), many_series.series_lengths)
    for batch in itertools.chain(*itertools.islice(found.steps(), 8)):
        assert len({series[row] for row in batch.rows}) == 16
    assert loader(many_series, **LIGHT).spread_note is None


def test_with_fewer_series_than_the_batch_the_user_is_told_and_series_are_spread_evenly(slices):
    found = loader(slices, **(LIGHT | {"batch_size": 5, "accumulate": 1}))
    assert re.search(
        r"batch of 5 slices.*2 series, the longest of 6 of 10 slices\. For one at most", found.spread_note
    )
    for (batch,) in itertools.islice(found.steps(), 6):
        assert (batch.rows < 6).sum() == 3  # of each series its share


def test_a_mixture_is_the_same_whatever_the_workers_and_from_any_step(many_series, slices):
    mixture = SliceMixture([many_series, slices], (5, 1))
    whole = take(mixture, 6, **LIGHT)
    assert_same(take(mixture, 2, start_step=4, num_workers=2, **LIGHT), whole[4:])
    for step in whole:
        assert sum((batch.rows >= 128).sum().item() for batch in step) == 1
    # A row of the second set is read there: its slices are larger.
    assert mixture.example(128).slices_hu[0].shape == (40, 40)


def test_a_stride_reads_every_nth_slice_of_an_epoch(many_series):
    order = loader(many_series, z_stride=2, **LIGHT).order.orders[0]
    rows = [order.row_at(place) for place in order.places(0)]
    found = torch.cat([batch.rows for batch in itertools.chain(*take(many_series, 11, z_stride=2, **LIGHT))]).tolist()
    assert found[: len(rows)] == rows
    slice_index = np.concatenate([np.arange(length) for length in many_series.series_lengths])
    series = np.repeat(np.arange(many_series.num_series), many_series.series_lengths)
    for number in range(many_series.num_series):
        assert len({slice_index[row] % 2 for row in rows if series[row] == number}) == 1


def test_neighbours_may_lie_a_distance_apart(tmp_path):
    levels = np.repeat(np.arange(-900, -200, 100, dtype=np.int16), 16 * 16).reshape(7, 16, 16)  # 2.5 mm apart
    slices = SliceSet(write_built_set(tmp_path / "set", {"train-00000-of-00001": series_rows(levels, "p1")}))
    intensity = IntensityConfig(channels="neighbours", jitter_probability=0.0, windows=((-600, 1000),) * 3)
    adjacent, apart = (
        take(slices, 1, accumulate=1, batch_size=7, intensity=intensity, neighbour_mm=mm)[0][0] for mm in (None, 5.0)
    )
    place = apart.rows.tolist().index(3)
    std = torch.tensor([0.229, 0.224, 0.225])
    difference = (apart.global_crops - adjacent.global_crops)[place].mean(dim=(1, 2)) * std
    torch.testing.assert_close(difference, torch.tensor([-0.1, 0.0, 0.1]), atol=1e-4, rtol=0)


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


SIZES = CropsConfig(
    num_local=1,
    sizes=(
        CropSizes(weight=3, global_size=16, local_size=8),
        CropSizes(weight=1, global_size=32, local_size=16, gram_size=40),
    ),
)


def sizes_of(batch):
    gram = None if batch.gram_crops is None else batch.gram_crops.shape[-1]
    return batch.global_crops.shape[-1], batch.local_crops.shape[-1], gram


def test_a_step_has_one_size_for_all_micro_batches_and_processes(slices):
    processes = [take(slices, 12, crops=SIZES, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    sizes = [{sizes_of(batch) for steps in processes for batch in steps[step]} for step in range(12)]
    assert all(len(found) == 1 for found in sizes)
    assert set.union(*sizes) == {(16, 8, None), (32, 16, 40)}
    for batch in itertools.chain(*processes[0]):
        assert batch.masks.shape == (4, (batch.global_crops.shape[-1] // 8) ** 2)


def test_sizes_come_as_often_as_their_weights_say(slices):
    steps = take(slices, 80, crops=SIZES, batch_size=2, accumulate=1)
    num_small = sum(sizes_of(step[0]) == (16, 8, None) for step in steps)
    assert 50 <= num_small <= 70  # 60 expected, standard deviation 3.9


@pytest.mark.parametrize("num_workers", [0, 2])
def test_several_sizes_are_the_same_from_any_step_and_with_any_workers(slices, num_workers):
    how = {"crops": SIZES, "batch_size": 2}
    assert_same(take(slices, 4, start_step=3, num_workers=num_workers, **how), take(slices, 7, **how)[3:])


def test_the_first_of_several_sizes_stands_for_them():
    assert (SIZES.global_size, SIZES.local_size, SIZES.gram_size) == (16, 8, None)
    with pytest.raises(ValueError, match=r"crops.local_size must be left out beside crops.sizes; found 24"):
        CropsConfig(local_size=24, sizes=SIZES.sizes)
    with pytest.raises(ValueError, match=r"sizes of crops must be >= 8 px; found 4"):
        CropsConfig(sizes=(*SIZES.sizes, CropSizes(local_size=4)))


def test_every_size_has_to_be_a_multiple_of_the_patch(slices):
    with pytest.raises(ValueError, match=r"crops.global_size must be a multiple of the patch size 8; found 36"):
        loader(slices, crops=CropsConfig(sizes=(*SIZES.sizes, CropSizes(global_size=36))))
