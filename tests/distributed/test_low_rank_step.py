"""With LoRA two processes take the step of one with the joined batch: under DDP and sharded by FSDP2."""

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from dinox_hf.pretraining.low_rank import add_adapters, is_adapter
from dinox_hf.pretraining.sharding import prepare
from tests.distributed.joint_step import (
    NUM_SLICES,
    assert_same_step,
    joint_batch,
    joint_config,
    joint_model,
    joint_values,
    optimizer_of,
    part_of,
    results_of,
    take_step,
)
from tests.distributed.processes import launched_accelerator, mean_over_processes, sharding_accelerator
from tests.parity.ranks import run_on_ranks

pytestmark = pytest.mark.long

CONFIG = joint_config("--lora={rank: 4}")


def adapted_model():
    """As in the middle of a run: no adapter is 0, and the teacher's are not the student's."""
    model = joint_model(CONFIG)
    add_adapters(model, CONFIG.lora, lambda _: None)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def one_step(accelerator, first, count):
    model = adapted_model()
    model, optimizer = prepare(accelerator, model, optimizer_of(model))
    metrics = take_step(accelerator, model, optimizer, [part_of(joint_batch(), first, count)], joint_values(CONFIG))
    return model, metrics


def work(rank):
    """What each of the processes found."""
    found, half = {"num_processes": torch.tensor(dist.get_world_size())}, NUM_SLICES // 2
    for way, accelerator_of, kind in (
        ("ddp", launched_accelerator, DistributedDataParallel),
        ("fsdp", sharding_accelerator, FSDPModule),
    ):
        accelerator = accelerator_of()
        model, metrics = one_step(accelerator, rank * half, half)
        assert isinstance(model, kind)
        results = results_of(accelerator.unwrap_model(model), mean_over_processes(metrics))
        found |= {f"{way}/{name}": tensor for name, tensor in results.items()}
    return found


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return run_on_ranks(work, 2, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_every_adapter_learns_on_two_processes_what_it_learns_on_one(way, processes):
    model, metrics = one_step(Accelerator(cpu=True), 0, NUM_SLICES)
    expected = results_of(model, metrics)
    adapters = [name for name in expected if name.startswith("gradient/") and is_adapter(name)]
    assert len(adapters) == 4 * 6 * 2 and all(expected[name].any() for name in adapters)
    for found in processes:
        assert found["num_processes"] == 2
        assert_same_step({n.removeprefix(f"{way}/"): t for n, t in found.items() if n.startswith(way)}, expected)
