"""Attention and speed, judged on simulated answers."""

from dataclasses import replace

import pytest

from dinox_hf.doctor.check_work import check_copy, check_matmul, check_path_in_use, check_paths
from dinox_hf.doctor.devices import UNKNOWN, peak_of
from dinox_hf.doctor.facts import AttentionPath
from tests.doctor.machines import cuda_card, path, plain_cpu, strix_halo


def halo_with(**paths):
    work = strix_halo().work
    return replace(work, paths=work.paths | paths)


def test_fused_attention_is_ok():
    facts = strix_halo()
    finding = check_path_in_use(facts.platform, facts.environment, facts.work)
    assert finding.verdict == "ok" and "flash in bfloat16" in finding.found


def test_the_slow_path_asks_for_the_switch_or_else_for_another_torch():
    facts = strix_halo()
    slow = replace(facts.work, path_in_use="math")
    without = check_path_in_use(facts.platform, {}, slow)
    assert without.verdict == "warn" and without.mend == "export TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL=1"
    assert "newer torch" in check_path_in_use(facts.platform, facts.environment, slow).mend
    assert "newer torch" in check_path_in_use(cuda_card().platform, {}, slow).mend


def test_the_slow_path_is_no_fault_of_a_cpu():
    facts = plain_cpu()
    assert check_path_in_use(facts.platform, {}, replace(facts.work, path_in_use="math")).verdict == "ok"


def test_no_answer_about_the_path_is_a_failure():
    facts = strix_halo()
    work = replace(facts.work, path_in_use=None, broken={"choice": "its process was ended by SIGABRT"})
    finding = check_path_in_use(facts.platform, facts.environment, work)
    assert finding.verdict == "FAIL" and "SIGABRT" in finding.found


def test_sound_paths_are_one_line_with_the_worst_error():
    (finding,) = check_paths(halo_with(efficient=path(error=0.02)), {})
    assert finding.verdict == "ok" and finding.found == "eager, math, flash, efficient: within 2 % of float32"


def test_a_path_that_is_not_there_is_neither_sound_nor_broken():
    (finding,) = check_paths(halo_with(cudnn=AttentionPath(is_available=False, reason="No available kernel")), {})
    assert finding.verdict == "ok" and "cudnn" not in finding.found


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (path(is_finite=False), "gives NaN or infinity"),
        (path(is_finite_for_large_inputs=False), "gives NaN for large logits"),
        (path(error=0.2), "is off by 20 %, allowed 3 %"),
        (path(error=float("nan")), "is off by"),
        (AttentionPath.broken("its process was ended by SIGABRT"), "broke: its process was ended by SIGABRT"),
    ],
)
def test_each_fault_is_named_and_fails_where_training_takes_the_path(fault, words):
    sound, broken = check_paths(halo_with(flash=fault), strix_halo().environment)
    assert sound.verdict == "ok" and "flash" not in sound.found
    assert broken.verdict == "FAIL" and f"flash {words}" in broken.found
    assert "unset TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL" in broken.mend
    assert "do not train" in check_paths(halo_with(flash=fault), {})[1].mend


def test_a_broken_path_that_nobody_takes_is_a_warning():
    _, broken = check_paths(halo_with(efficient=path(is_finite=False)), {})
    assert broken.verdict == "warn" and "training takes flash" in broken.mend


def test_float32_is_held_to_more_than_bfloat16():
    work = plain_cpu().work
    assert check_paths(work, {})[0].verdict == "ok"
    worse = replace(work, paths=work.paths | {"flash": path(error=0.02)})
    assert check_paths(worse, {})[1].verdict == "FAIL"


@pytest.mark.parametrize(("tflops", "verdict"), [(36.9, "ok"), (5.1, "warn")])
def test_products_are_compared_with_the_peak(tflops, verdict):
    facts = strix_halo()
    finding = check_matmul(facts.platform, replace(facts.work, tflops=tflops), facts.environment)
    assert finding.verdict == verdict and "of 59.4 TFLOP/s" in finding.found


def test_slow_products_on_rocm_ask_for_hipblaslt_first():
    facts = strix_halo()
    slow = replace(facts.work, tflops=5.1)
    assert "TORCH_BLAS_PREFER_HIPBLASLT=1" in check_matmul(facts.platform, slow, {}).mend
    assert "power" in check_matmul(facts.platform, slow, facts.environment).mend


@pytest.mark.parametrize(("gb_s", "verdict"), [(212.0, "ok"), (84.0, "warn")])
def test_copies_are_compared_with_the_peak(gb_s, verdict):
    facts = strix_halo()
    assert check_copy(facts.platform, replace(facts.work, copy_gb_s=gb_s)).verdict == verdict


def test_an_unknown_device_raises_no_expectation():
    facts = plain_cpu()
    for finding in (check_matmul(facts.platform, facts.work, {}), check_copy(facts.platform, facts.work)):
        assert finding.verdict == "note" and "no expectation" in finding.found


def test_float32_is_not_held_against_a_peak_of_bfloat16():
    facts = cuda_card()
    assert check_matmul(facts.platform, facts.work, {}).verdict == "ok"
    assert check_matmul(facts.platform, replace(facts.work, dtype="float32"), {}).verdict == "note"


def test_a_product_or_a_copy_without_an_answer_is_a_failure():
    facts = strix_halo()
    work = replace(facts.work, tflops=None, copy_gb_s=None, broken={"matmul": "no answer in 180 s"})
    finding = check_matmul(facts.platform, work, {})
    assert finding.verdict == "FAIL" and finding.found == "no answer in 180 s"
    assert check_copy(facts.platform, work).verdict == "FAIL"


def test_devices_are_known_by_name_and_else_by_architecture():
    assert peak_of("Radeon 8060S Graphics", "gfx1151") == peak_of("AMD Radeon Graphics", "gfx1151")
    assert peak_of("Radeon 8050S Graphics", "gfx1151").tflops is None
    # 40 compute units, 512 operations per clock each, 2.9 GHz; 256 bits at 8 GT/s.
    assert peak_of("Radeon 8060S Graphics", None).tflops == pytest.approx(40 * 512 * 2.9e9 / 1e12, rel=1e-3)
    assert peak_of("Radeon 8060S Graphics", None).gb_s == 256 / 8 * 8
    assert peak_of("NVIDIA H200", "sm_90").gb_s == 4800
    assert peak_of("AMD Radeon RX 7900 XTX", "gfx1100") == UNKNOWN
