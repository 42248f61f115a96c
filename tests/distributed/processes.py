"""What `accelerate launch` gives its processes, given to ours: they are forked from one that has imported torch."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

CONFIGS = Path(__file__).parents[2] / "accelerate_configs"


def launched_accelerator(**arguments) -> Accelerator:
    """The accelerator of a process that `accelerate launch` started on a machine without a GPU: DDP over gloo."""
    rank, world_size = str(dist.get_rank()), str(dist.get_world_size())
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    # FORK_LAUNCHED leaves the end of the process group to who began it.
    os.environ |= names | {"ACCELERATE_USE_CPU": "1", "FORK_LAUNCHED": "1"}
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    return Accelerator(**arguments)


def sharding_accelerator(**arguments) -> Accelerator:
    """The same with accelerate_configs/fsdp2.yaml, and FSDP2 in earnest.

    Accelerate takes a machine without a GPU for one without FSDP and falls back to DDP. Told otherwise after its
    start, it goes the whole way that it goes on GPUs.
    """
    accelerator = launched_accelerator(**arguments)
    os.environ |= {name: value for name, value in environment_of("fsdp2.yaml").items() if name.startswith("FSDP_")}
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    # Accelerate asks both of its states, and copies the second into the first when it wraps an optimizer.
    accelerator.state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return accelerator


def environment_of(config: str, num_processes: int = 2) -> dict[str, str]:
    """The environment that `accelerate launch --config_file` sets for its processes."""
    flags = ["--config_file", str(CONFIGS / config), "--num_processes", str(num_processes), "--main_process_port", "0"]
    arguments = launch_command_parser().parse_args([*flags, "train.py"])
    return prepare_multi_gpu_env(_validate_launch_command(arguments)[0])


def mean_over_processes(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Averages of numbers that each process has its own of."""
    for value in values.values():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return values
