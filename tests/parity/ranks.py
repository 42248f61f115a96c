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


def run_on_ranks(work: Callable[[int], dict[str, Tensor]], world_size: int, folder: Path) -> list[dict[str, Tensor]]:
    """Call `work(rank)`, a function of a module, in `world_size` joined processes and return what each gave back."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__])
    processes = [
        context.Process(target=_run, args=(work, rank, world_size, folder), daemon=True) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    exit_codes = [process.exitcode for process in processes]
    assert exit_codes == [0] * world_size, f"exit codes of the ranks: {exit_codes} (None: still waiting after 120 s)"
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(world_size)]


def _run(work: Callable[[int], dict[str, Tensor]], rank: int, world_size: int, folder: Path) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    result = work(rank)
    save_file({name: tensor.contiguous() for name, tensor in result.items()}, folder / f"rank{rank}.safetensors")
    dist.barrier()
    dist.destroy_process_group()
