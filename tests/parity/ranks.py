"""Real processes that talk over gloo, all started from one that has imported torch already."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

TIMEOUT_S = 240  # a tenth of it suffices on two idle cores


def run_on_ranks(
    work: Callable[..., dict[str, Tensor]], world_size: int, folder: Path, *arguments: object
) -> list[dict[str, Tensor]]:
    """Call `work(rank, *arguments)`, a function of a module, in joined processes; returns what each gave back."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    processes = [
        context.Process(target=_run, args=(work, rank, world_size, folder, *arguments), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=TIMEOUT_S)
    exit_codes = [process.exitcode for process in processes]
    assert exit_codes == [0] * world_size, f"exit codes of the ranks: {exit_codes} (None: not done in {TIMEOUT_S} s)"
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(world_size)]


def _run(work: Callable[..., dict[str, Tensor]], rank: int, world_size: int, folder: Path, *arguments: object) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    result = work(rank, *arguments)
    save_file({name: tensor.contiguous() for name, tensor in result.items()}, folder / f"rank{rank}.safetensors")
    dist.barrier()
    dist.destroy_process_group()
