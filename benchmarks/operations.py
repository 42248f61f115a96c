"""Which operations of PyTorch a function spends its time in, on a CPU."""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class OperationClock(TorchDispatchMode):
    """Inside, `seconds` counts the processor's time of each operation by its name, that of this process alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = defaultdict(float)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Call the operation between two looks at the clock."""
        begin = time.process_time()
        results = function(*args, **kwargs or {})
        self.seconds[function.overloadpacket.__name__.strip("_")] += time.process_time() - begin
        return results


def shares(run: Callable[[], object]) -> str:
    """The operations that take 3 % or more, in per cent."""
    with OperationClock() as clock:
        run()
    total = sum(clock.seconds.values())
    ordered = sorted(clock.seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {taken / total:.0%}" for name, taken in ordered if taken >= 0.03 * total)
