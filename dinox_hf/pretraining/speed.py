"""How fast a run is and what it holds: images per second through the whole loop, each image counted once."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SpeedMeter:
    """Counts from one log to the next, pictures and checkpoints included: the speed that the calendar sees.

    Args:
        images_per_step: slices of one update over all processes and micro-batches; crops do not count.
        step: where the run stands.
        clock: seconds that never go back.
    """

    def __init__(self, images_per_step: int, step: int, clock=time.perf_counter) -> None:
        self.images_per_step, self.clock = images_per_step, clock
        self._restart(step)

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Whatever happens inside is time in which the networks stood still."""
        begin = self.clock()
        yield
        self.seconds_waiting += self.clock() - begin

    def report(self, num_steps: int) -> dict[str, float]:
        """The numbers since the last call, `num_steps` updates being done in all; counting begins anew."""
        seconds = self.clock() - self.begin
        numbers = {
            "images_per_second": (num_steps - self.first_step) * self.images_per_step / seconds,
            "share_waiting_for_data": self.seconds_waiting / seconds,
            "memory_gb": peak_memory_bytes() / 1e9,
        }
        self._restart(num_steps)
        return numbers

    def _restart(self, step: int) -> None:
        self.begin, self.first_step, self.seconds_waiting = self.clock(), step, 0.0


def peak_memory_bytes() -> int:
    """The most that this process has held so far: allocated on its GPU, or resident where it has none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else 1024 * resident
