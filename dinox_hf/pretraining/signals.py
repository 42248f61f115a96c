"""SIGTERM, SIGINT and SIGUSR1 ask a run to finish its step and save; nothing else happens when they come."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# SIGUSR1 is what SLURM users let be sent before the time limit (docs/clusters.md); Windows has none.
_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class StopSignals:
    """Remembers the last signal that asked the run to stop.

    Args:
        say: called with one line when a signal comes.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.received: str | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Signals are remembered inside; before and after, they do what they did before."""
        before = {number: signal.signal(number, self._remember) for number in _STOPPING}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, _frame: object) -> None:
        self.received = signal.Signals(number).name
        self.say(f"{self.received}: finishing this step, then saving.")
