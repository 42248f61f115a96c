"""Prepared slices for another training loop: those of the image processor, every row once."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dinox_hf.data.examples import SliceExamples, StreamedExamples
from dinox_hf.data.slices import SliceSet
from dinox_hf.data.streaming import ROWS_PER_SHARD, StreamedSlices
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from tests.data.built_set import noisy_series, series_rows, write_built_set

LENGTHS = (4, 3, 5)
SIZE = {"height": 32, "width": 32}


@pytest.fixture
def folder(tmp_path):
    shards = {
        f"train-{number:05d}-of-00003": series_rows(noisy_series(number, (length, 24, 24)), f"p{number}", -2000)
        for number, length in enumerate(LENGTHS)
    }
    return write_built_set(tmp_path / "set", shards)


@pytest.mark.parametrize(("channels", "neighbour_mm"), [("windows", None), ("neighbours", None), ("neighbours", 5.0)])
def test_an_example_is_the_slice_through_the_image_processor(folder, channels, neighbour_mm):
    slices, processor = SliceSet(folder), Dinov3CTImageProcessor(channels=channels, size=SIZE)
    examples = SliceExamples(slices, processor, neighbour_mm)
    assert len(examples) == 12
    image = slices.pixels(5) if channels == "windows" else slices.neighbours(5, neighbour_mm)
    expected = processor(image, padding_hu=-2000, return_tensors="pt").pixel_values[0]
    assert torch.equal(examples[5]["pixel_values"], expected) and expected.shape == (3, 32, 32)
    # 24 x 24 pixels of 0.8 x 0.7 mm became 32 x 32.
    torch.testing.assert_close(examples[5]["spacing_mm"], torch.tensor([0.6, 0.525]))
    batch = next(iter(DataLoader(examples, batch_size=4)))
    assert batch["pixel_values"].shape == (4, 3, 32, 32) and batch["row"].tolist() == [0, 1, 2, 3]


def test_a_stride_takes_every_nth_slice_of_each_series(folder):
    examples = SliceExamples(SliceSet(folder), Dinov3CTImageProcessor(size=SIZE), z_stride=2)
    assert [examples[index]["row"] for index in range(len(examples))] == [0, 2, 4, 6, 7, 9, 11]


@pytest.mark.parametrize("epoch", [0, 1, 5])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 0), (2, 2), (3, 1)])
def test_streamed_examples_give_every_slice_once_an_epoch(folder, world_size, num_workers, epoch):
    rows = []
    for rank in range(world_size):
        examples = StreamedExamples(
            StreamedSlices(folder), Dinov3CTImageProcessor(size=SIZE), rank=rank, world_size=world_size
        )
        examples.epoch = epoch
        rows += [example["row"] for example in DataLoader(examples, batch_size=None, num_workers=num_workers)]
    assert sorted(rows) == [shard * ROWS_PER_SHARD + row for shard in range(3) for row in range(LENGTHS[shard])]


def test_streamed_and_mapped_examples_are_equal(folder):
    processor = Dinov3CTImageProcessor(channels="neighbours", size=SIZE)
    mapped = SliceExamples(SliceSet(folder), processor, neighbour_mm=5.0)
    begins = np.concatenate([[0], np.cumsum(LENGTHS)])
    for example in StreamedExamples(StreamedSlices(folder), processor, neighbour_mm=5.0):
        shard, row = divmod(example["row"], ROWS_PER_SHARD)
        assert torch.equal(example["pixel_values"], mapped[begins[shard] + row]["pixel_values"])
