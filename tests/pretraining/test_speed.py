"""Images per second by a clock that the test turns: each image once, whatever is done with it."""

import pytest

from dinox_hf.pretraining.speed import SpeedMeter, peak_memory_bytes


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_images_are_counted_once_and_never_by_crops_or_micro_batches(loader):
    """Two micro-batches of two slices are four images a step, though eight global and sixteen local crops are cut."""
    clock = Clock()
    speed = SpeedMeter(loader.settings.images_per_step, step=0, clock=clock)
    clock.now += 2.0
    micro_batches = next(loader.steps(0))
    slices = sum(len(batch.rows) for batch in micro_batches)
    assert slices == 4 and sum(len(batch.global_crops) for batch in micro_batches) == 8
    assert speed.report(num_steps=1)["images_per_second"] == pytest.approx(slices / 2.0)


def test_speed_is_that_since_the_last_log_whatever_happened_in_between():
    clock = Clock()
    speed = SpeedMeter(images_per_step=8, step=100, clock=clock)
    clock.now += 1.0
    assert speed.report(num_steps=110)["images_per_second"] == pytest.approx(80)
    clock.now += 4.0  # a slow checkpoint among them
    assert speed.report(num_steps=120)["images_per_second"] == pytest.approx(20)


def test_waiting_for_data_is_a_share_of_the_time():
    clock = Clock()
    speed = SpeedMeter(images_per_step=8, step=0, clock=clock)
    with speed.waiting_for_data():
        clock.now += 1.0
    clock.now += 3.0
    assert speed.report(num_steps=1)["share_waiting_for_data"] == pytest.approx(0.25)
    clock.now += 1.0
    assert speed.report(num_steps=2)["share_waiting_for_data"] == 0


def test_memory_is_in_bytes_of_this_process():
    before = peak_memory_bytes()
    block = bytearray(64 << 20)
    assert 10e6 < before <= peak_memory_bytes() < 64e9
    del block
