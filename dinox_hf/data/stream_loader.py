"""Endless batches of crops from sets that are streamed: shared out among processes and workers, shard by shard.

The shards follow one another without end, epoch after epoch in another order, and each is read by exactly one process
or worker: nothing comes twice and nothing is lost, whether or not the number of shards divides by that of the readers.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from .batches import Batch
from .loader import CropLoader, LoaderSettings
from .mixture import pattern_of, shares_of
from .slices import SliceExample
from .streaming import StreamedSlices

# First word after the seed; the map-style loader has 1 to 3.
_SHARDS, _DRAWS = 5, 6


class StreamLoader(CropLoader):
    """Cuts crops from streamed sets, step by step, for one process of `world_size`.

    Where `PretrainLoader` is exact, this is near. The slices of a series come in random order only as far as the
    buffer reaches; processes end an epoch at different times; another number of workers gives another order. A resumed
    run goes on at the shards that it had open, judged by the mean length of a shard, from their beginning: some slices
    of this epoch come again and some are left out. The same seed, processes, workers and first step give the same
    batches.

    Args:
        sets: the streamed sets.
        weights: share of the examples that comes from each, in any unit.
        settings: which slices become which crops.
        buffer_size: slices that wait in each worker, half a megabyte each.

    Raises:
        ValueError: if a weight is no number above 0.
    """

    def __init__(
        self,
        sets: Sequence[StreamedSlices],
        weights: Sequence[float],
        settings: LoaderSettings,
        buffer_size: int = 1024,
    ) -> None:
        super().__init__(settings)
        self._sets = tuple(sets)
        self._counts = pattern_of(shares_of(weights, len(sets)) * settings.batch_size)
        self._buffer_size = buffer_size

    @property
    def fingerprint(self) -> str:
        """Names the slices: equal wherever the same sets lie."""
        return "+".join(part.fingerprint for part in self._sets)

    @property
    def num_slices(self) -> int:
        """Slices in all sets."""
        return sum(part.num_slices for part in self._sets)

    @property
    def source(self) -> str:
        """Where the slices come from, for people."""
        return ", ".join(part.folder for part in self._sets)

    @property
    def spread_note(self) -> str | None:
        """Says where a micro-batch has to hold several slices of a series; None if none has to."""
        most, num_readers = self._counts.max(axis=0), self.settings.world_size * max(1, self.settings.num_workers)
        for part, num in zip(self._sets, most, strict=True):
            if part.num_shards < num * num_readers:
                return (
                    f"A batch of {num} slices holds several of a series, spread as evenly as can be: {part.folder} "
                    f"has {part.num_shards} shards for {num_readers} processes and workers. For one at most, lower "
                    f"data.num_workers or batch.size, or train without data.streaming."
                )
        return None

    def steps(self, start_step: int = 0) -> Iterator[list[Batch]]:
        """Endless steps from about where `start_step` stood, each a list of exactly `accumulate` micro-batches."""
        return self._batches(_MicroBatches(self, start_step * self.settings.accumulate))

    def examples(self, num: int) -> list[SliceExample]:
        """The middle slices of a few series from all over the sets, the same ones every time: for pictures."""
        shards = [(part, number) for part in self._sets for number in range(part.num_shards)]
        chosen = np.linspace(0, len(shards) - 1, num).round().astype(int)
        return [
            _middle(*shards[place], self.settings.slices_per_example, self.settings.neighbour_mm) for place in chosen
        ]

    def micro_batches(self, first: int, worker: int, num_workers: int) -> Iterator[Batch]:
        """Every `num_workers`-th micro-batch of this process, from number `first` + `worker` on."""
        turns = len(range(worker, first, num_workers))  # of this worker, before
        readers = [
            self._reader(number, worker, num_workers, slices_before=round(turns * self._counts[:, number].mean()))
            for number in range(len(self._sets))
        ]
        for index in itertools.count(first + worker, num_workers):
            counts = self._counts[index % len(self._counts)]
            taken = [reader.take(num) for reader, num in zip(readers, counts, strict=True)]
            yield self._collate(index, list(itertools.chain(*taken)))

    def _reader(self, number: int, worker: int, num_workers: int, slices_before: int) -> "SeriesReader":
        part, num_readers = self._sets[number], self.settings.world_size * num_workers
        # Twice as many as a batch takes, so that other series meet in each; but no more than are this reader's.
        num_open = min(2 * int(self._counts[:, number].max()), max(1, part.num_shards // num_readers))
        return SeriesReader(
            part,
            reader=self.settings.rank * num_workers + worker,
            num_readers=num_readers,
            num_open=num_open,
            buffer_size=round(self._buffer_size * self._counts[:, number].mean() / self.settings.batch_size),
            seed=self.settings.seed,
            number=number,
            num_slices=self.settings.slices_per_example,
            apart_mm=self.settings.neighbour_mm,
            z_stride=self.settings.z_stride,
            slices_before=slices_before,
        )


class _MicroBatches(IterableDataset):
    """The micro-batches of one process; DataLoader asks its workers in turn."""

    def __init__(self, loader: StreamLoader, first: int) -> None:
        self._loader, self._first = loader, first

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        return self._loader.micro_batches(self._first, worker, num_workers)


class SeriesReader:
    """Batches for one reader of several: a few series at a time, from each batch to batch another slice.

    Args:
        slices: the set.
        reader: which of the readers this is.
        num_readers: processes times their workers.
        num_open: series that are read at the same time.
        buffer_size: slices that wait, so that those of a series come in random order as far as the buffer reaches.
        seed: the run's seed.
        number: which of several sets this is.
        num_slices: 1, or 3 for slices between their neighbours.
        apart_mm: distance of the neighbours; None for adjacent ones.
        z_stride: an epoch takes every n-th slice of a series.
        slices_before: slices that this reader had taken when the run stopped: it goes on with the shards that it then
            had open, as far as the mean length of a shard tells.
    """

    def __init__(
        self,
        slices: StreamedSlices,
        reader: int,
        num_readers: int,
        num_open: int,
        buffer_size: int,
        seed: int,
        number: int = 0,
        num_slices: int = 1,
        apart_mm: float | None = None,
        z_stride: int = 1,
        slices_before: int = 0,
    ) -> None:
        self._slices, self._z_stride = slices, z_stride
        self._example = num_slices, apart_mm
        self._waiting_per_series = max(1, buffer_size // num_open)
        shards_before = slices_before * slices.num_shards * z_stride / slices.num_slices
        skipped = max(0, round(shards_before - num_open / 2)) if slices_before else 0
        self._turns = shard_turns(reader + skipped * num_readers, num_readers, slices.num_shards, seed, number)
        self._rng = np.random.default_rng([seed, _DRAWS, number, reader, num_readers, slices_before])
        self._open = [self._open_next() for _ in range(num_open)]

    def take(self, num: int) -> list[SliceExample]:
        """The next `num` slices: no two of a series as long as enough series are open, else about as many of each."""
        taken: list[SliceExample] = []
        while len(taken) < num:
            # The end of one epoch and the beginning of the next may hold the same shard open twice.
            order = self._rng.permutation(len(self._open))
            _, firsts = np.unique([self._open[place].number for place in order], return_index=True)
            for place in order[np.sort(firsts)][: num - len(taken)]:
                taken.append(self._draw(int(place)))
        return taken

    def _draw(self, place: int) -> SliceExample:
        waiting = self._open[place].waiting
        while not waiting:
            self._open[place] = self._open_next()
            waiting = self._open[place].waiting
        drawn = waiting.pop(int(self._rng.integers(len(waiting))))
        self._fill(self._open[place])
        if not waiting:
            self._open[place] = self._open_next()
        return drawn

    def _open_next(self) -> "_OpenShard":
        epoch, number = next(self._turns)
        shard = _OpenShard(number, [], self._of_epoch(number, epoch))
        self._fill(shard)
        return shard

    def _of_epoch(self, shard: int, epoch: int) -> Iterator[SliceExample]:
        examples = self._slices.shard(shard, *self._example)
        return (example for example in examples if (example.row + shard - epoch) % self._z_stride == 0)

    def _fill(self, shard: "_OpenShard") -> None:
        missing = self._waiting_per_series - len(shard.waiting)
        shard.waiting.extend(example for _, example in zip(range(missing), shard.examples, strict=False))


class _OpenShard(NamedTuple):
    number: int
    waiting: list[SliceExample]
    examples: Iterator[SliceExample]


def shard_turns(first: int, step: int, num_shards: int, seed: int, number: int = 0) -> Iterator[tuple[int, int]]:
    """(epoch, shard) of every `step`-th turn from `first` on, of the endless sequence of a set's shards."""
    for turn in itertools.count(first, step):
        epoch, place = divmod(turn, num_shards)
        rng = np.random.default_rng([seed, _SHARDS, number, epoch])
        yield epoch, int(rng.permutation(num_shards)[place])


def _middle(part: StreamedSlices, shard: int, num_slices: int, apart_mm: float | None) -> SliceExample:
    examples = list(part.shard(shard, num_slices, apart_mm))
    return examples[len(examples) // 2]
