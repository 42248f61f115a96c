"""A run and its device: what is said before it starts, what is refused, and what a lack of memory leaves behind."""

import pytest
import torch
from accelerate import Accelerator

import training.pretrain as script
from dinox_hf.pretraining.fit import device_bytes, fit_to_device
from tests.training.tiny import tiny_config, tiny_set


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def planned_gb(accelerator, *overrides):
    config, plan = fit_to_device(tiny_config("data", "run", *overrides), accelerator)
    assert config.model.checkpointing == plan.policy
    return plan.peak / 1e9


def test_auto_takes_the_first_policy_that_fits(accelerator, capsys):
    needed = {
        policy: planned_gb(accelerator, f"--model.checkpointing={policy}") for policy in ("none", "selective", "block")
    }
    assert needed["none"] > needed["selective"] > needed["block"]
    for policy, peak in needed.items():
        room = f"--device_gb={1.001 * peak / 0.92}"
        config, _ = fit_to_device(tiny_config("data", "run", "--model.checkpointing=auto", room), accelerator)
        assert config.model.checkpointing == policy
    assert "GB planned of" in capsys.readouterr().out


def test_what_does_not_fit_is_refused_with_a_plan_that_does(accelerator):
    peak = planned_gb(accelerator, "--batch.size=8")
    arguments = ["--batch.size=8", f"--device_gb={0.9 * peak / 0.92}"]
    with pytest.raises(ValueError, match=r"does not fit: .* needed .* The nearest plan .*--batch.size=") as refusal:
        fit_to_device(tiny_config("data", "run", *arguments), accelerator)
    advice = [word for word in str(refusal.value).split() if word.startswith(("--model.", "--batch."))]
    config, _ = fit_to_device(
        tiny_config("data", "run", arguments[1], *(word.rstrip(".") for word in advice)), accelerator
    )
    assert config.batch.size * config.batch.accumulate == 8


def test_a_machine_says_itself_how_much_it_has(accelerator):
    assert device_bytes(tiny_config("data", "run"), accelerator) > 1e8
    assert device_bytes(tiny_config("data", "run", "--device_gb=2"), accelerator) == 2e9


def test_running_out_of_memory_tells_the_plan_and_leaves_the_last_checkpoint_as_it_was(data, tmp_path, monkeypatch):
    """Memory is out in the fourth step, after a checkpoint at the second; the run goes on from there."""
    real, calls = script.training_step, []

    def step(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real(*arguments)

    config = tiny_config(data, tmp_path / "run")
    monkeypatch.setattr(script, "training_step", step)
    with pytest.raises(RuntimeError, match=r"allocated \(CUDA out of memory(.|\n)*Planned were"):
        script.main(config)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(left) == 1 and left[0].endswith("2")
    script.main(config, "always")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())[-1].endswith("6")
