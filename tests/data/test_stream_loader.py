"""Streams shared out among processes and workers: nothing twice, nothing lost, one slice of a series in a batch."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.data.intensity.ct import IntensityConfig
from dinox_hf.data.loader import LoaderSettings
from dinox_hf.data.masking import MaskingConfig
from dinox_hf.data.slices import SliceExample
from dinox_hf.data.stream_loader import SeriesReader, StreamLoader, shard_turns
from dinox_hf.data.streaming import ROWS_PER_SHARD, StreamedSlices
from tests.data.built_set import noisy_series, series_rows, write_built_set
from tests.data.test_loader import assert_same

LENGTHS = [3, 9, 5, 4, 7, 6, 3, 8, 5, 6, 4, 7, 10]  # 13 series: not divisible by any number of readers below


class CountedSlices:
    """A set without pixels, in which every visit of a shard gives rows of its own."""

    num_shards, num_slices = len(LENGTHS), sum(LENGTHS)

    def __init__(self):
        self.visits = []

    def shard(self, number, _num_slices=1, _apart_mm=None):
        first = len(self.visits) * 1000
        self.visits.append(number)
        return (SliceExample((), (1.0, 1.0), None, first + place) for place in range(LENGTHS[number]))


@pytest.fixture
def streamed(tmp_path):
    shards = {
        f"train-{number:05d}-of-00013": series_rows(noisy_series(number, (length, 16, 16)), f"p{number}")
        for number, length in enumerate(LENGTHS)
    }
    return StreamedSlices(write_built_set(tmp_path / "set", shards))


def loader(*sets, weights=None, buffer_size=12, **changes):
    arguments = {
        "crops": CropsConfig(global_size=8, local_size=8, num_local=1, gram_size=8),
        "intensity": IntensityConfig(),
        "masking": MaskingConfig(),
        "patch_size": 8,
        "batch_size": 2,
        "accumulate": 2,
        "seed": 7,
    }
    return StreamLoader(sets, weights or [1.0] * len(sets), LoaderSettings(**(arguments | changes)), buffer_size)


def take(loader, num_steps, start_step=0):
    return list(itertools.islice(loader.steps(start_step), num_steps))


def rows_of(steps):
    return torch.cat([batch.rows for step in steps for batch in step]).tolist()


@pytest.mark.parametrize("num_readers", [1, 2, 3, 4, 6, 20])
def test_readers_share_out_every_shard_of_every_epoch_once(num_readers):
    turns = [itertools.islice(shard_turns(reader, num_readers, 13, seed=1), 60) for reader in range(num_readers)]
    shares = list(itertools.chain(*turns))
    assert len(set(shares)) == len(shares)
    for epoch in range(60 * num_readers // 13):
        assert sorted(shard for other, shard in shares if other == epoch) == list(range(13))


def test_epochs_take_the_shards_in_another_order():
    turns = list(itertools.islice(shard_turns(0, 1, 13, seed=1), 39))
    orders = [[shard for epoch, shard in turns if epoch == number] for number in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != [shard for _, shard in itertools.islice(shard_turns(0, 1, 13, seed=2), 13)]


@pytest.mark.parametrize(("num_open", "buffer_size"), [(1, 1), (4, 4), (5, 40)])
def test_a_reader_gives_every_slice_of_its_shards_once(num_open, buffer_size):
    slices = CountedSlices()
    reader = SeriesReader(slices, 0, 1, num_open, buffer_size, seed=3)
    rows = [example.row for _ in range(100) for example in reader.take(3)]
    assert len(set(rows)) == 300
    complete = [
        visit
        for visit, shard in enumerate(slices.visits)
        if all(visit * 1000 + r in rows for r in range(LENGTHS[shard]))
    ]
    assert len(complete) >= len(slices.visits) - num_open  # the others are still open


def test_a_stride_gives_every_slice_once_in_so_many_epochs():
    slices = CountedSlices()
    reader = SeriesReader(slices, 0, 1, num_open=1, buffer_size=1, seed=3, z_stride=2)
    rows = [example.row for example in reader.take(2 * sum(LENGTHS))]
    places = Counter((slices.visits[row // 1000], row % 1000) for row in rows[: sum(LENGTHS)])
    assert set(places.values()) == {1} and len(places) == sum(LENGTHS)


def test_a_batch_takes_one_slice_of_a_series_as_long_as_enough_are_open():
    slices = CountedSlices()
    reader = SeriesReader(slices, 0, 1, num_open=6, buffer_size=24, seed=3)
    for _ in range(200):
        shards = [slices.visits[example.row // 1000] for example in reader.take(4)]
        # Six are open; at the turn of an epoch two of them may be the same.
        assert len(set(shards)) == 4
    few = SeriesReader(slices, 0, 1, num_open=2, buffer_size=8, seed=3)
    most = [max(Counter(slices.visits[example.row // 1000] for example in few.take(6)).values()) for _ in range(50)]
    assert np.mean(np.array(most) == 3) > 0.5 and np.mean(np.array(most) <= 4) > 0.9  # of 6, from two open series


def test_slices_of_a_series_come_in_random_order_as_far_as_the_buffer_reaches():
    slices = CountedSlices()
    reader = SeriesReader(slices, 0, 1, num_open=1, buffer_size=100, seed=3)
    rows = [example.row for example in reader.take(60)]
    assert sum(b > a for a, b in itertools.pairwise(rows)) < 50
    sequential = SeriesReader(CountedSlices(), 0, 1, num_open=1, buffer_size=1, seed=3)
    rows = [example.row for example in sequential.take(60)]
    assert rows == sorted(rows)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_processes_and_workers_read_all_rows_and_none_twice(streamed, world_size, num_workers):
    rows = {shard * ROWS_PER_SHARD + row for shard, length in enumerate(LENGTHS) for row in range(length)}
    loaders = [loader(streamed, rank=r, world_size=world_size, num_workers=num_workers) for r in range(world_size)]
    per_rank = [rows_of(take(found, 30)) for found in loaders]
    assert set(itertools.chain(*per_rank)) == rows
    num_readers = world_size * max(1, num_workers)
    # A reader opens a shard of the next epoch once all but `num_open - 1` of this one are read; until then nothing can
    # come twice.
    num_open = min(4, max(1, 13 // num_readers))
    turns = [list(itertools.islice(shard_turns(reader, num_readers, 13, seed=7), 13)) for reader in range(num_readers)]
    shares = [sorted(LENGTHS[shard] for epoch, shard in turn if epoch == 0) for turn in turns]
    least = min(sum(share[: len(share) + 1 - num_open]) for share in shares)
    steps = least * max(1, num_workers) // 4
    early = list(itertools.chain(*(found[: 4 * steps] for found in per_rank)))
    assert len(set(early)) == len(early)
    for batch in np.reshape(early, (-1, 2)):
        assert len({row // ROWS_PER_SHARD for row in batch}) == 2


def test_the_same_seed_and_workers_give_the_same_batches(streamed):
    assert_same(take(loader(streamed, num_workers=2), 5), take(loader(streamed, num_workers=2), 5))
    assert rows_of(take(loader(streamed), 5)) != rows_of(take(loader(streamed, seed=8), 5))


def test_a_resumed_run_goes_on_about_where_it_stood(streamed):
    epochs = [epoch for epoch, _ in itertools.islice(shard_turns(0, 1, 13, seed=7), 100)]
    order = [shard for _, shard in itertools.islice(shard_turns(0, 1, 13, seed=7), 100)]
    resumed = rows_of(take(loader(streamed), 1, start_step=100))  # 400 slices, 5.2 epochs, 67.5 shards
    first_shards = {row // ROWS_PER_SHARD for row in resumed}
    assert first_shards <= set(order[64:72]) and epochs[68] == 5
    assert_same(take(loader(streamed), 2, start_step=100), take(loader(streamed), 2, start_step=100))


def test_two_sets_are_mixed_by_weight(streamed, tmp_path):
    rows = series_rows(noisy_series(99, (5, 24, 24)), "other")
    other = StreamedSlices(write_built_set(tmp_path / "other", {"train-00000-of-00001": rows}))
    mixed = loader(streamed, other, weights=(3, 1), batch_size=4)
    assert mixed.num_slices == 13 * 3 + 5  # by the length of the first shard: these cards tell none
    assert mixed.fingerprint == f"{streamed.fingerprint}+{other.fingerprint}"
    for step in take(mixed, 4):
        for batch in step:
            assert len(batch.rows) == 4 and (batch.rows[3:] < ROWS_PER_SHARD).all()


def test_neighbours_and_pictures_come_from_the_middle_of_a_series(streamed):
    found = loader(streamed, intensity=IntensityConfig(channels="neighbours")).examples(3)
    assert [example.row for example in found] == [1, 6 * ROWS_PER_SHARD + 1, 12 * ROWS_PER_SHARD + 5]
    assert all(len(example.slices_hu) == 3 for example in found)


def test_too_few_shards_for_the_readers_are_told(streamed):
    assert loader(streamed, num_workers=2).spread_note is None
    note = loader(streamed, num_workers=8).spread_note
    assert "has 13 shards for 8 processes and workers" in note and "data.num_workers" in note
