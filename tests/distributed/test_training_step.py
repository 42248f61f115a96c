"""Two processes with 16 slices each take the step of one process with 32: under DDP and sharded by FSDP2.

Both processes are started once and do everything; the tests look at what they found.
"""

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from dinox_hf.pretraining.checkpoint import load_checkpoint, save_checkpoint
from dinox_hf.pretraining.sharding import at_hand, prepare, whole
from tests.distributed.joint_step import (
    NUM_SLICES,
    TERMS,
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
from tests.distributed.test_accumulation import step_in_parts
from tests.parity.ranks import run_on_ranks

SHARDED = ("model.layer.0", "model.layer.1", "model.layer.2", "model.layer.3", "dino_head", "ibot_head")


def work(rank, folder):
    """What each of the processes found."""
    found = {"num_processes": torch.tensor(dist.get_world_size())}
    accelerator = launched_accelerator()
    for num_parts in (1, 2):
        model, _, results = step_on_a_process(accelerator, rank, num_parts)
        assert accelerator.num_processes == 2 and isinstance(model, DistributedDataParallel)
        found |= {f"ddp/{num_parts}/{name}": tensor for name, tensor in results.items()}
    accelerator = sharding_accelerator()
    for num_parts in (1, 2):
        model, optimizer, results = step_on_a_process(accelerator, rank, num_parts)
        assert accelerator.num_processes == 2 and isinstance(model, FSDPModule)
        found |= {f"fsdp/{num_parts}/{name}": tensor for name, tensor in results.items()}
    found["share"] = share_of(model)
    found["groups"] = torch.frombuffer(bytearray("\n".join(groups_of(model)).encode()), dtype=torch.uint8)
    found |= {f"alone/{name}": tensor for name, tensor in parts_called_alone(model).items()}
    found["resumed_apart"] = save_and_resume(accelerator, rank, folder, model, optimizer)
    _, _, results = step_on_a_process(accelerator, rank, 2, "--model.checkpointing=block")
    found |= {f"fsdp/recomputed/{name}": tensor for name, tensor in results.items()}
    # Last, because it stays with the accelerator: bfloat16 compute on float32 shards.
    accelerator.state._mixed_precision, accelerator.native_amp = "bf16", True
    model, _, results = step_on_a_process(accelerator, rank, 2)
    assert model.student.dino_head.prototypes.weight.dtype == torch.float32
    return found | {f"bf16/{name}": results[f"metric/{name}"] for name in TERMS}


def step_on_a_process(accelerator, rank, num_parts, *overrides):
    config = joint_config(*overrides)
    model = joint_model(config)
    model, optimizer = prepare(accelerator, model, optimizer_of(model))
    metrics = own_step(accelerator, rank, num_parts, model, optimizer)
    return model, optimizer, results_of(accelerator.unwrap_model(model), mean_over_processes(metrics))


def own_step(accelerator, rank, num_parts, model, optimizer):
    """A step on this process's half of the slices, in parts."""
    batch, size = joint_batch(), NUM_SLICES // 2 // num_parts
    parts = [part_of(batch, rank * NUM_SLICES // 2 + part * size, size) for part in range(num_parts)]
    return take_step(accelerator, model, optimizer, parts, joint_values(joint_config()))


def share_of(model):
    """The share of all weights that lies on this process: of student, teacher and gram teacher."""
    networks = (model.student, model.teacher, model.gram_teacher)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    local = [sum(p.to_local().numel() for p in network.parameters()) for network in networks]
    return torch.tensor(local) / torch.tensor([sum(p.numel() for p in network.parameters()) for network in networks])


def groups_of(model):
    return [name for name, module in model.named_modules() if isinstance(module, FSDPModule)]


@torch.no_grad()
def parts_called_alone(model):
    """As instruments and pictures do it, between two steps."""
    crops = joint_batch().global_crops[:2]
    with at_hand(model):
        cls, patches = model.teacher.eval().global_tokens(crops)
        found = {"cls": cls, "logits": model.teacher.dino_head(cls), "patches": patches}
        return found | {"attention": model.teacher.backbone.cls_attention_rows(crops)[-1]}


def save_and_resume(accelerator, rank, folder, model, optimizer):
    """Largest difference after one more step, between going on and loading what was saved; 0 if they are the same."""
    save_checkpoint(
        folder, 1, model, optimizer.optimizer, Dinov3CTImageProcessor(), keep=1, is_writer=accelerator.is_main_process
    )
    dist.barrier()
    resumed = joint_model(joint_config("--seed=3"))
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.zero_()
    resumed, resumed_optimizer = prepare(accelerator, resumed, optimizer_of(resumed))
    step, _ = load_checkpoint(folder / "checkpoints" / "step_00000001", resumed, resumed_optimizer.optimizer)
    assert step == 1
    own_step(accelerator, rank, 2, model, optimizer)
    own_step(accelerator, rank, 2, resumed, resumed_optimizer)
    expected, found = model.state_dict(), resumed.state_dict()
    return torch.stack([(whole(found[name]) - whole(expected[name])).abs().max() for name in expected]).max()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def processes(folder):
    return run_on_ranks(work, 2, folder, folder / "run")


@pytest.fixture(scope="module")
def at_once():
    return step_in_parts(1)


def under(prefix, found):
    return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}


def test_there_were_two_processes(processes):
    assert [found["num_processes"].item() for found in processes] == [2, 2]


@pytest.mark.parametrize("way", ["ddp/1/", "ddp/2/", "fsdp/1/", "fsdp/2/", "fsdp/recomputed/"])
def test_two_processes_take_the_step_of_one_with_the_joined_batch(way, processes, at_once):
    for found in processes:
        assert_same_step(under(way, found), at_once)


def test_student_teacher_and_gram_teacher_are_cut_alike(processes):
    for found in processes:
        groups = bytes(found["groups"].tolist()).decode().split("\n")
        expected = [f"{network}.{part}" for network in ("student", "teacher") for part in SHARDED]
        expected = [name.replace(".model.", ".backbone.model.") for name in expected]
        expected += [f"gram_teacher.{part}" for part in SHARDED if part.startswith("model.")]
        assert sorted(groups) == sorted(["", *expected])


def test_each_process_holds_half_of_every_network(processes):
    """Tensors whose first axis is 1, such as the CLS token, cannot be cut: the first process has them."""
    shares = torch.stack([found["share"] for found in processes])
    torch.testing.assert_close(shares.sum(0), torch.ones(3))
    assert shares.min() > 0.49


def test_a_sharded_run_saves_what_a_single_process_would_and_loads_it(processes, folder, at_once):
    checkpoint = folder / "run" / "checkpoints" / "step_00000001"
    model = joint_model(joint_config("--seed=3"))
    optimizer = optimizer_of(model)
    load_checkpoint(checkpoint, model, optimizer)
    expected = under("fsdp/2/weight/", processes[0])
    assert expected.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    moments = [optimizer.state[parameter]["exp_avg"] for parameter in model.student.parameters()]
    gradients = [at_once[f"gradient/{name}"] for name, _ in model.student.named_parameters()]
    for moment, gradient in zip(moments, gradients, strict=True):
        torch.testing.assert_close(moment, 0.1 * gradient, rtol=0, atol=1e-5)
    tensors = load_file(checkpoint / "backbone" / "model.safetensors")
    assert tensors.keys() == model.teacher.backbone.state_dict().keys()


def test_a_sharded_run_goes_on_from_its_checkpoint_bit_for_bit(processes):
    assert [found["resumed_apart"].item() for found in processes] == [0.0, 0.0]


def test_parts_of_a_sharded_model_can_be_called_between_steps(processes, folder):
    model = joint_model(joint_config())
    load_checkpoint(folder / "run" / "checkpoints" / "step_00000001", model, optimizer_of(model))
    expected = parts_called_alone(model)
    for found in processes:
        torch.testing.assert_close(under("alone/", found), expected)


def test_bfloat16_shards_compute_losses_in_float32(processes, at_once):
    for found in processes:
        for name, loss in under("bf16/", found).items():
            assert loss.dtype == torch.float32 and loss != loss.bfloat16()
            torch.testing.assert_close(loss, at_once[f"metric/{name}"], rtol=0.05, atol=0.02)
        assert abs(found["bf16/gram"] - at_once["metric/gram"]) > 1e-5  # it was bfloat16 indeed
