"""Both sides of a comparison in turns, so that a busy machine disturbs both alike: median and quartiles."""

import platform
import statistics
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping

import torch
import transformers


def step_options(doc: str, *, prototypes: int, batch: int, rounds: int) -> ArgumentParser:
    """What `pieces.py` and `step.py` may be told; `--help` shows the page's own docstring."""
    options = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    options.add_argument(
        "--prototypes", type=int, default=prototypes, help=f"of each head; the recipe has 65536 [{prototypes}]"
    )
    options.add_argument("--batch", type=int, default=batch, help=f"slices of a step [{batch}]")
    options.add_argument("--rounds", type=int, default=rounds, help=f"[{rounds}]")
    options.add_argument("--threads", type=int, default=1, help="of the CPU [1]")
    options.add_argument("--device", default="cpu", help="cpu or cuda [cpu]")
    return options


def begin(chosen: Namespace) -> torch.device:
    """Set threads, say what the figures depend on, and return the device."""
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {chosen.threads} thread(s)"
    print(
        f"{time.strftime('%Y-%m-%d')}, {where}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; batch {chosen.batch}, {chosen.prototypes} prototypes"
    )
    return device


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of this process's processors, which others do not lengthen; with a GPU, seconds on the clock."""
    if device.type == "cpu":
        begin = time.process_time()
        run()
        return time.process_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def in_turns(
    sides: Mapping[str, Callable[[], object]],
    num_rounds: int,
    device: torch.device,
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each side in each round, by name; a first round, which warms the caches, is not counted.

    `prepare` comes before every side and takes no time; it restores what a side works on in place.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(num_rounds + 1):
        for name, run in sides.items():
            prepare()
            taken = seconds_of(run, device)
            if number:
                seconds[name].append(taken)
    return seconds


def ratio(theirs: list[float], ours: list[float]) -> str:
    """How many times as long they take: the median over the rounds, with quartiles."""
    low, middle, high = statistics.quantiles([their / own for their, own in zip(theirs, ours, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
