"""A stage continues from the run before it on two processes as it does on one, under DDP and under FSDP2."""

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

import training.pretrain as script
from tests.distributed.processes import launched_accelerator, sharding_accelerator
from tests.parity.ranks import run_on_ranks
from tests.training.tiny import tiny_config, tiny_set

WAYS = {"ddp": launched_accelerator, "fsdp": sharding_accelerator}
PRETRAIN = ("--steps=2", "--save_every=2", "--gram={first_step: null}", "--batch.size=2")
# The teacher stays what it was, so its checkpoint shows what the stage began with; the moments are one step further.
STAGE = (
    *("--steps=1", "--batch.size=2", "--gram={first_step: 0, ramp_steps: 0}"),
    "--teacher={momentum: 1.0, momentum_end: 1.0}",
)


def work(rank, data, folder):
    """Stage 1, and from its folder stage 2 in both ways; all by two processes."""
    script.Accelerator = launched_accelerator
    script.main(tiny_config(data, folder / "pretrain", *PRETRAIN))
    dist.barrier()
    init = f"--init={{from_run: {folder / 'pretrain'}, take: everything}}"
    for way, accelerator in WAYS.items():
        script.Accelerator = accelerator
        script.main(tiny_config(data, folder / way, *STAGE, init))
    return {"num_processes": torch.tensor(dist.get_world_size())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    found = run_on_ranks(work, 2, folder, tiny_set(folder / "set"), folder)
    assert [each["num_processes"].item() for each in found] == [2, 2]
    return folder


def tensors(folder, step):
    checkpoint = folder / "checkpoints" / f"step_{step:08d}"
    return load_file(checkpoint / "training.safetensors"), load_file(checkpoint / "backbone" / "model.safetensors")


@pytest.mark.parametrize("way", WAYS)
def test_weights_anchor_and_moments_come_along(way, folder):
    (_, teacher_before), (training, teacher) = tensors(folder / "pretrain", 2), tensors(folder / way, 1)
    assert [name for name, tensor in teacher_before.items() if not torch.equal(teacher[name], tensor)] == []
    anchor = {name: training[f"gram_teacher.{name}"] for name in teacher_before}
    assert [name for name, tensor in teacher_before.items() if not torch.equal(anchor[name], tensor)] == []
    counts = [tensor.item() for name, tensor in training.items() if name.endswith("|step")]
    assert len(counts) > 0 and set(counts) == {3}  # two steps before, one of its own


def test_sharded_or_not_the_stage_takes_the_same_step(folder):
    ddp, fsdp = tensors(folder / "ddp", 1)[0], tensors(folder / "fsdp", 1)[0]
    assert ddp.keys() == fsdp.keys()
    moments = [name for name in ddp if name.endswith("|exp_avg_sq")]
    assert len(moments) > 0
    for name in moments:
        torch.testing.assert_close(fsdp[name], ddp[name], rtol=1e-3, atol=1e-9, msg=name)
