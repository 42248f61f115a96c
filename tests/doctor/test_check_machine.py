"""Torch, device, kernel, memory and environment, each judged on simulated answers."""

from dataclasses import replace

import pytest

from dinox_hf.doctor.check_machine import check_device, check_environment, check_kernel, check_memory, check_torch
from tests.doctor.machines import GIB, GOOD_ENVIRONMENT, cuda_card, plain_cpu, strix_halo

HALO, CARD, CPU = strix_halo().platform, cuda_card().platform, plain_cpu().platform


@pytest.mark.parametrize("platform", [HALO, CARD, CPU], ids=["strix halo", "cuda", "cpu"])
def test_a_torch_that_suits_the_machine_is_ok(platform):
    assert check_torch(platform).verdict == "ok"


@pytest.mark.parametrize(
    ("gpu", "build", "mend"),
    [("amd", "cpu", "install_rocm.sh"), ("amd", "cuda", "install_rocm.sh"), ("nvidia", "cpu", "index for CUDA")],
)
def test_a_gpu_that_this_torch_was_not_built_for_is_a_failure(gpu, build, mend):
    finding = check_torch(replace(CPU, gpus=(gpu,), build=build))
    assert finding.verdict == "FAIL" and mend in finding.mend


def test_an_amd_display_beside_a_cuda_card_that_works_is_no_failure():
    assert check_torch(replace(CARD, gpus=("amd", "nvidia"))).verdict == "ok"


@pytest.mark.parametrize("platform", [HALO, CARD], ids=["strix halo", "cuda"])
def test_a_gpu_that_torch_reaches_is_ok(platform):
    finding = check_device(platform, {})
    assert finding.verdict == "ok" and platform.device in finding.found and platform.arch in finding.found


def test_wheels_without_kernels_for_this_gpu_are_noticed():
    finding = check_device(replace(HALO, built_for=("gfx1100", "gfx942")), {})
    assert finding.verdict == "warn" and "gfx1100 gfx942" in finding.expected and "install_rocm.sh" in finding.mend


def test_kernels_for_the_whole_family_will_do():
    assert check_device(replace(HALO, built_for=("gfx11-generic",)), {}).verdict == "ok"
    assert check_device(replace(HALO, built_for=("gfx12-generic",)), {}).verdict == "warn"


def test_a_machine_without_a_gpu_is_a_note():
    assert check_device(CPU, {}).verdict == "note"


@pytest.mark.parametrize(
    ("platform", "environment", "mend"),
    [
        (replace(HALO, backend="cpu", kfd="missing"), {}, "--device /dev/kfd"),
        (replace(HALO, backend="cpu", kfd="closed"), {}, "usermod -aG render,video"),
        (replace(HALO, backend="cpu"), {}, "rocminfo"),
        (replace(HALO, backend="cpu"), {"HIP_VISIBLE_DEVICES": ""}, "unset HIP_VISIBLE_DEVICES"),
        (replace(HALO, backend="cpu", kfd="closed"), {"HIP_VISIBLE_DEVICES": "0"}, "usermod"),
        (replace(CARD, backend="cpu"), {"CUDA_VISIBLE_DEVICES": "-1"}, "unset CUDA_VISIBLE_DEVICES"),
        (replace(CARD, backend="cpu"), {}, "nvidia-smi"),
    ],
)
def test_a_gpu_that_torch_cannot_reach_is_a_failure_with_its_own_mend(platform, environment, mend):
    finding = check_device(platform, environment)
    assert finding.verdict == "FAIL" and mend in finding.mend


@pytest.mark.parametrize(
    ("kernel", "rocm", "verdict"),
    [
        ("6.18.4", "7.14.60850", "ok"),
        ("7.0.0-28-generic", "7.2.26015", "ok"),
        ("6.17.9-300.fc43.x86_64", "7.2.1", "ok"),
        ("6.14.0-1018-oem", "7.2.0", "ok"),
        ("6.14.0-1016-oem", "7.2.0", "warn"),  # before the correction
        ("6.14.0-1018-generic", "7.2.0", "warn"),  # only the OEM kernels have it
        ("6.16.9", "7.2.0", "warn"),
        ("6.18.4", "7.1.25424", "warn"),  # the other half is missing
        ("6.8.0-90-generic", "7.2.0", "FAIL"),
    ],
)
def test_kernel_and_rocm_have_to_agree_on_the_registers_of_gfx1151(kernel, rocm, verdict):
    finding = check_kernel(replace(HALO, kernel=kernel, toolkit=rocm))
    assert finding.verdict == verdict and bool(finding.mend) == (verdict != "ok")


def test_the_kernel_does_not_matter_elsewhere():
    assert check_kernel(CARD) is None and check_kernel(CPU) is None


def halo_memory(**changes):
    return check_memory(HALO, replace(strix_halo().memory, **changes))


def test_96_of_128_gigabytes_are_as_it_should_be():
    assert halo_memory().verdict == "ok"


def test_a_large_carve_out_that_torch_sees_is_as_good():
    assert halo_memory(ram=31 * GIB, vram=96 * GIB, gtt=16 * GIB, ttm_limit=16 * GIB).verdict == "ok"


def test_the_kernels_default_of_half_the_ram_is_mended_by_ttm_and_not_by_gttsize_alone():
    """Seen on real machines: amdgpu.gttsize=131072 alone, and torch saw 62.47 GiB."""
    finding = halo_memory(device_total=int(62.47 * GIB), gtt=128 * GIB, ttm_limit=int(62.5 * GIB))
    wanted = int(0.75 * 125.5 * GIB)
    assert finding.verdict == "warn" and "62.5 GiB of 126 GiB" in finding.found
    assert f"amd-ttm --set {wanted // GIB}," in finding.mend and f"ttm.pages_limit={wanted // 4096}" in finding.mend


def test_a_carve_out_that_torch_does_not_see_asks_for_a_newer_kernel():
    """Kernels before 6.16.9: 96 GB set aside, 15.5 seen."""
    finding = halo_memory(ram=31 * GIB, vram=96 * GIB, device_total=int(15.5 * GIB), gtt=16 * GIB)
    assert finding.verdict == "warn" and "6.16.9" in finding.mend


def test_a_carve_out_in_the_way_of_more_is_lowered_in_the_bios():
    finding = halo_memory(ram=62 * GIB, vram=64 * GIB, device_total=64 * GIB, gtt=31 * GIB, ttm_limit=31 * GIB)
    assert finding.verdict == "warn" and "BIOS" in finding.mend


def test_a_limit_that_is_high_enough_leaves_rocm_to_update():
    finding = halo_memory(device_total=int(15.5 * GIB))
    assert finding.verdict == "warn" and "newer ROCm" in finding.mend


def test_a_card_that_is_full_already_is_noticed():
    memory = cuda_card().memory
    assert check_memory(CARD, memory).verdict == "ok"
    finding = check_memory(CARD, replace(memory, device_free=10 * GIB))
    assert finding.verdict == "warn" and "another process" in finding.mend


def test_a_container_limits_the_memory_of_a_cpu():
    memory = plain_cpu().memory
    assert check_memory(CPU, memory).verdict == "ok"
    finding = check_memory(CPU, replace(memory, limit=2 * GIB))
    assert finding.verdict == "warn" and "2 GiB for this process" in finding.found


def test_a_good_environment_is_praised_in_one_line():
    for facts in (strix_halo(), cuda_card(), plain_cpu()):
        (finding,) = check_environment(facts.platform, facts.environment)
        assert finding.verdict == "ok"


@pytest.mark.parametrize("name", GOOD_ENVIRONMENT)
def test_a_missing_switch_is_named_with_its_value(name):
    environment = {other: value for other, value in GOOD_ENVIRONMENT.items() if other != name}
    (finding,) = check_environment(HALO, environment)
    assert finding.verdict == "warn" and f"{name}=1" in finding.found and "rocm_strix_halo.env.sh" in finding.mend
    assert check_environment(CARD, environment)[0].verdict == "ok"


@pytest.mark.parametrize(("version", "verdict"), [("11.0.0", "FAIL"), ("11.5.0", "FAIL"), ("11.5.1", "ok")])
def test_the_guise_of_another_gpu_is_a_failure(version, verdict):
    """Torch then sees the guise; the kernel still knows the GPU."""
    environment = GOOD_ENVIRONMENT | {"HSA_OVERRIDE_GFX_VERSION": version}
    guise = {"11.0.0": "gfx1100", "11.5.0": "gfx1150", "11.5.1": "gfx1151"}[version]
    assert check_environment(replace(HALO, arch=guise), environment)[0].verdict == verdict
    assert check_environment(replace(HALO, hardware_arch=None), environment)[0].verdict == verdict


def test_harm_and_absence_are_two_lines():
    findings = check_environment(HALO, {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"})
    assert [finding.verdict for finding in findings] == ["FAIL", "warn"]


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_two_allocator_options_that_lost_data_together_are_a_failure(name):
    both = {name: "expandable_segments:True,max_split_size_mb:128"}
    assert check_environment(HALO, GOOD_ENVIRONMENT | both)[0].verdict == "FAIL"
    assert check_environment(HALO, GOOD_ENVIRONMENT | {name: "expandable_segments:True"})[0].verdict == "ok"
    assert check_environment(CARD, both)[0].verdict == "ok"


def test_composable_kernel_is_not_for_this_gpu():
    prefer = {"TORCH_ROCM_FA_PREFER_CK": "1"}
    finding = check_environment(HALO, GOOD_ENVIRONMENT | prefer)[0]
    assert finding.verdict == "warn" and finding.mend.startswith("unset TORCH_ROCM_FA_PREFER_CK")
    assert check_environment(replace(HALO, arch="gfx942", hardware_arch="gfx942"), prefer)[0].verdict == "ok"


def test_a_debugging_switch_left_on_is_noticed():
    (finding,) = check_environment(CARD, {"CUDA_LAUNCH_BLOCKING": "1"})
    assert finding.verdict == "warn" and "unset CUDA_LAUNCH_BLOCKING" in finding.mend
    assert check_environment(CARD, {"CUDA_LAUNCH_BLOCKING": "0"})[0].verdict == "ok"


def test_idle_cores_are_noticed_on_a_cpu():
    (finding,) = check_environment(replace(CPU, threads=1), {})
    assert finding.verdict == "warn" and "OMP_NUM_THREADS=2" in finding.mend
