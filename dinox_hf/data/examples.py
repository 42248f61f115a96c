"""2.5D examples for somebody's own training loop: whole slices, prepared as the network expects them, no crops."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from .slices import SliceExample, SliceSet
from .stream_loader import shard_turns
from .streaming import StreamedSlices


class SliceExamples(Dataset):
    """Every slice of a set as `{"pixel_values": …, "spacing_mm": …, "row": …}`, for `torch.utils.data.DataLoader`.

    pixel_values are (3, H, W) float32, spacing_mm (2,) float32 the mm per pixel of what the processor gives, (y, x).

        slices = SliceSet("outputs/lidc/dataset", "train")
        processor = Dinov3CTImageProcessor(channels="neighbours")
        batches = DataLoader(SliceExamples(slices, processor, neighbour_mm=2.5), batch_size=32, shuffle=True)

    `slices.patient_id(row)` and `slices.series_id(row)` tell where an example comes from: split by patient.

    Args:
        slices: the set.
        processor: windows, size and normalisation; its `channels` says whether the three channels are three windows of
            one slice or the slice between its neighbours.
        neighbour_mm: distance of the neighbours; None for adjacent slices.
        z_stride: take every n-th slice of a series.
    """

    def __init__(
        self,
        slices: SliceSet,
        processor: Dinov3CTImageProcessor,
        neighbour_mm: float | None = None,
        z_stride: int = 1,
    ) -> None:
        self._slices, self._processor, self._neighbour_mm = slices, processor, neighbour_mm
        lengths = slices.series_lengths
        slice_index = np.arange(len(slices)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._rows = np.flatnonzero(slice_index % z_stride == 0)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        example = self._slices.example(int(self._rows[index]), _num_slices(self._processor), self._neighbour_mm)
        return _prepared(example, self._processor)


class StreamedExamples(IterableDataset):
    """The same of a streamed set: one epoch of the slices that fall to this process and its DataLoader worker.

    Together, processes and workers give every slice once, whatever their number; each reads whole series, in z order,
    so shuffle what comes out if the order matters.

    Args:
        slices: the set.
        processor: as of `SliceExamples`.
        neighbour_mm: as of `SliceExamples`.
        rank: which process this is.
        world_size: number of processes.
        seed: decides the order of the series, together with `epoch`.
    """

    def __init__(
        self,
        slices: StreamedSlices,
        processor: Dinov3CTImageProcessor,
        neighbour_mm: float | None = None,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        self._slices, self._processor, self._neighbour_mm = slices, processor, neighbour_mm
        self._rank, self._world_size, self._seed = rank, world_size, seed
        self.epoch = 0  # set it before each epoch for another order

    def __iter__(self) -> Iterator[dict[str, Tensor | int]]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        reader, num_readers = self._rank * num_workers + worker, self._world_size * num_workers
        num_shards = self._slices.num_shards
        # Where the shards do not divide by the readers, another reader than before has the first turn of an epoch.
        first = self.epoch * num_shards + (reader - self.epoch * num_shards) % num_readers
        for epoch, shard in shard_turns(first, num_readers, num_shards, self._seed):
            if epoch != self.epoch:
                return
            for example in self._slices.shard(shard, _num_slices(self._processor), self._neighbour_mm):
                yield _prepared(example, self._processor)


def _num_slices(processor: Dinov3CTImageProcessor) -> int:
    return 3 if processor.channels == "neighbours" else 1


def _prepared(example: SliceExample, processor: Dinov3CTImageProcessor) -> dict[str, Tensor | int]:
    slices_hu = example.slices_hu
    image = np.stack(slices_hu) if len(slices_hu) == 3 else slices_hu[0]
    given = {"spacing_mm": example.spacing_yx_mm, "padding_hu": example.padding_hu}
    # Examples of a loader join into batches: all have the processor's size.
    size = {side: processor.size[side] for side in ("height", "width")}
    prepared = processor(image, size=size, return_tensors="pt", **given)
    return {"pixel_values": prepared.pixel_values[0], "spacing_mm": prepared.spacing_mm[0], "row": example.row}
