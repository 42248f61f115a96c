"""The measurements themselves, on the CPU that is here."""

import sys

import pytest
import torch

from dinox_hf.doctor import work
from dinox_hf.doctor.check_work import check_paths
from dinox_hf.doctor.facts import Work
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel


def test_the_shapes_are_those_of_our_networks():
    assert work.vit_shapes("cpu") == [(2, 6, 201, 64), (2, 6, 41, 64), (2, 24, 201, 64), (2, 24, 41, 64)]
    assert (2, 24, 1029, 64) in work.vit_shapes("cuda")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(work, "vit_shapes", lambda device: [(1, 2, 41, 64)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["eager", "math", "flash"])
def test_every_path_of_a_cpu_is_sound(small, name, dtype):
    path = work.probe_path(name, "cpu", dtype)
    (finding,) = check_paths(Work(dtype=str(dtype).removeprefix("torch."), path_in_use=name, paths={name: path}), {})
    assert finding.verdict == "ok" and path.milliseconds > 0


def test_a_path_that_a_cpu_has_not_is_absent_and_not_broken(small):
    path = work.probe_path("efficient", "cpu", torch.float32)
    assert not path.is_available and path.reason


def test_a_package_that_is_not_installed_is_absent_and_not_broken(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert not work.probe_path("flash_attention_2", "cpu", torch.float32).is_available


def sabotaged(spoil):
    """The exact path with `spoil` done to its output or its gradient."""
    return lambda *inputs: spoil(work._eager(*inputs))


class WrongGradient(torch.autograd.Function):
    """Forward is right; backward gives a tenth too much."""

    @staticmethod
    def forward(_, output):
        return output.clone()

    @staticmethod
    def backward(_, gradient):
        return 1.1 * gradient


class NaNGradient(WrongGradient):
    @staticmethod
    def backward(_, gradient):
        return gradient * float("nan")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda output: 1.1 * output, "is off by 10 %"),
        (WrongGradient.apply, "is off by 10 %"),
        (NaNGradient.apply, "gives NaN or infinity"),
        (lambda output: torch.where(output > 2.5, float("inf"), output), "gives NaN"),
    ],
    ids=["output", "gradient", "NaN gradient", "infinity"],
)
def test_a_kernel_that_computes_wrongly_is_found_out(small, monkeypatch, spoil, words):
    monkeypatch.setattr(work, "attention_path", lambda name: sabotaged(spoil))
    path = work.probe_path("flash", "cpu", torch.float32)
    (finding,) = check_paths(Work(dtype="float32", path_in_use="flash", paths={"flash": path}), {})
    assert finding.verdict == "FAIL" and words in finding.found


def test_a_kernel_that_overflows_on_large_logits_only_is_found_out(small, monkeypatch):
    def half_precision_logits(query, key, value):
        overflow = (query @ key.mT).abs().amax() > 2000  # stands for the limit of a 16-bit accumulator
        return work._eager(query, key, value) * torch.where(overflow, float("nan"), 1.0)

    monkeypatch.setattr(work, "attention_path", lambda name: half_precision_logits)
    path = work.probe_path("flash", "cpu", torch.float32)
    assert path.is_finite and not path.is_finite_for_large_inputs


def test_a_kernel_that_raises_is_broken_and_not_absent(small, monkeypatch):
    def refuse(*inputs):
        raise RuntimeError("HIP error: invalid argument\nmore words")

    monkeypatch.setattr(work, "attention_path", lambda name: refuse)
    path = work.probe_path("flash", "cpu", torch.float32)
    assert path.is_available and path.reason == "HIP error: invalid argument"


def test_our_network_attends_through_sdpa():
    """The doctor asks SDPA for its choice, because that is what a run calls."""
    config = Dinov3CTConfig.preset("vit_tiny")
    assert Dinov3CTModel(config).config._attn_implementation == "sdpa"


def test_the_choice_of_torch_is_one_of_its_paths():
    assert work.chosen_path("cpu", torch.float32) in work.SDPA_PATHS


def test_speed_is_operations_and_bytes_over_the_shortest_time(monkeypatch):
    monkeypatch.setattr(work, "_seconds", lambda call, device: 0.5)
    assert work.measure_matmul("cpu", torch.float32) == pytest.approx(2 * 1024**3 / 0.5 / 1e12)
    assert work.measure_copy("cpu", torch.float32) == pytest.approx(2 * (64 << 20) / 0.5 / 1e9)


def test_a_task_that_fails_is_an_answer_too(monkeypatch):
    def refuse(task, device):
        raise RuntimeError("out of memory\nmore words")

    monkeypatch.setattr(work, "answer", refuse)
    assert list(work._answers(["copy"], "cpu")) == [{"task": "copy", "broken": "out of memory"}]
