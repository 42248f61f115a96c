"""Whole runs of training/pretrain.py by two processes: stopped, resumed, and the same, under DDP and under FSDP2."""

import shutil
import signal

import pytest
import torch
import torch.distributed as dist
import yaml
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

import training.pretrain as script
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from dinox_hf.pretraining.run import Run
from tests.distributed.processes import launched_accelerator, sharding_accelerator
from tests.parity.ranks import run_on_ranks
from tests.training.test_pretrain import assert_same_run, logged
from tests.training.tiny import tiny_config, tiny_set

WAYS = {
    "ddp": (launched_accelerator, DistributedDataParallel),
    "fsdp": (sharding_accelerator, FSDPModule),
}
# With accumulation and a first look at all slices, so that every part of a step takes part.
SETTINGS = ("--batch.size=2", "--batch.accumulate=2", "--losses.koleo_scope=step")


def work(rank, data, folder):
    """For each way one whole run, and one that a signal to the first process stops and a second call ends."""
    train_step = script.training_step
    kinds, losses = [], []

    def noting_the_kind(accelerator, model, *rest):
        kinds.append(type(model))
        metrics, targets = train_step(accelerator, model, *rest)
        losses.append(metrics["ibot"])
        return metrics, targets

    script.training_step = noting_the_kind
    for way, (accelerator, kind) in WAYS.items():
        script.Accelerator = accelerator
        script.main(tiny_config(data, folder / way / "whole", *SETTINGS))
        stop_after(step=2, rank=rank)
        script.main(tiny_config(data, folder / way / "stopped", *SETTINGS))
        dist.barrier()
        stop_after(step=None, rank=rank)
        assert latest_checkpoint(folder / way / "stopped").name == "step_00000003"
        if rank == 0:
            shutil.copytree(folder / way / "stopped", folder / way / "moved")
        dist.barrier()
        script.main(tiny_config(data, folder / way / "stopped", *SETTINGS), resume="always")
        assert len(kinds) == 12 and all(issubclass(found, kind) for found in kinds)
        kinds.clear()
    return {"num_processes": torch.tensor(dist.get_world_size()), "ibot": torch.stack(losses[:6])}


def stop_after(step, rank, watch=Run.watch):
    """Let SIGUSR1 come during a step, to the first process alone: a job's script may not reach all at once."""

    def watched(run, now, *rest):
        watch(run, now, *rest)
        if now == step and rank == 0:
            signal.raise_signal(signal.SIGUSR1)

    Run.watch = watched


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def processes(folder):
    return run_on_ranks(work, 2, folder, tiny_set(folder / "set"), folder)


@pytest.mark.parametrize("way", WAYS)
def test_a_run_of_two_processes_stopped_and_resumed_is_the_same_run(way, processes, folder):
    assert [found["num_processes"].item() for found in processes] == [2, 2]
    assert_same_run(folder / way / "whole", folder / way / "stopped")
    lineage = yaml.safe_load((folder / way / "whole" / "run.yaml").read_text())["lineage"]
    assert (lineage["num_processes"], lineage["images_per_step"]) == (2, 8)
    assert (folder / way / "stopped" / "pictures" / "step_00000006.png").exists()


def test_losses_are_logged_as_means_over_the_processes(processes, folder):
    own = torch.stack([found["ibot"] for found in processes])
    means = [line["ibot"] for line in logged(folder / next(iter(WAYS)) / "whole")]
    assert means == pytest.approx(own.mean(0).tolist(), rel=1e-7)
    assert own[0].tolist() != pytest.approx(means, rel=1e-5), "each process has slices of its own"


def test_sharded_or_not_the_run_logs_the_same(processes, folder):
    """All the numbers, instruments of the first process included; AdamW makes more of rounding with every step."""
    for sharded, whole in zip(*(logged(folder / way / "whole") for way in ("fsdp", "ddp")), strict=True):
        assert sharded == pytest.approx(whole, rel=1e-4 if whole["step"] == 1 else 1e-2, abs=1e-4)


def test_one_process_goes_on_from_two_only_with_as_many_slices_in_a_step(processes, folder, capsys):
    moved = folder / "fsdp" / "moved"
    with pytest.raises(ValueError, match=r"steps of 8 slices.*size 2 x batch.accumulate 2 x 1 processes = 4"):
        script.main(tiny_config(folder / "set", moved, *SETTINGS), resume="always")
    script.main(tiny_config(folder / "set", moved, *SETTINGS, "--batch.accumulate=4"), resume="always")
    assert "goes on with 1 processes after 2: as many slices in a step, but other masks" in capsys.readouterr().out
    assert [line["step"] for line in logged(moved)] == list(range(1, 7))
    # The first half is the sharded run's own, the second one went on from its weights.
    assert logged(moved)[:3] == logged(folder / "fsdp" / "whole")[:3]
    assert latest_checkpoint(moved).name == "step_00000006"
