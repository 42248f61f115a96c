"""What is read from /sys, /proc and /dev, on a file system of the test's own."""

import pytest
import torch

from dinox_hf.doctor.machine import _hardware_arch, probe_environment, probe_memory, probe_platform

GIB = 1 << 30


@pytest.fixture
def root(tmp_path):
    """A Strix Halo: 128 GB, 0.5 GB of them carved out, GTT and TTM raised to 96 GiB; a display card beside it."""
    files = {
        "proc/meminfo": "MemTotal:       131072000 kB\nMemFree: 5 kB\nMemAvailable:   120000000 kB\n",
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD RYZEN AI MAX+ 395 w/ Radeon 8060S\n",
        "sys/module/ttm/parameters/pages_limit": f"{96 * GIB // 4096}\n",
        "sys/fs/cgroup/memory.max": "max\n",
        "sys/class/drm/card0/device/vendor": "0x1002\n",
        "sys/class/drm/card0/device/mem_info_vram_total": "268435456\n",
        "sys/class/drm/card0/device/mem_info_gtt_total": f"{2 * GIB}\n",
        "sys/class/drm/card1/device/vendor": "0x1002\n",
        "sys/class/drm/card1/device/mem_info_vram_total": f"{GIB // 2}\n",
        "sys/class/drm/card1/device/mem_info_gtt_total": f"{96 * GIB}\n",
        "sys/class/kfd/kfd/topology/nodes/0/properties": "cpu_cores_count 32\ngfx_target_version 0\n",
        "sys/class/kfd/kfd/topology/nodes/1/properties": "cpu_cores_count 0\ngfx_target_version 110501\n",
        "dev/kfd": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_memory_is_read_in_bytes_from_the_card_that_has_most(root):
    memory = probe_memory(root)
    assert (memory.ram, memory.ram_available) == (131072000 * 1024, 120000000 * 1024)
    assert (memory.vram, memory.gtt, memory.ttm_limit) == (GIB // 2, 96 * GIB, 96 * GIB)
    assert memory.limit is None


def test_a_limit_of_the_container_is_read(root):
    (root / "sys/fs/cgroup/memory.max").write_text(f"{8 * GIB}\n")
    assert probe_memory(root).limit == 8 * GIB


def test_an_empty_machine_has_no_numbers_and_does_not_crash(tmp_path):
    memory, platform = probe_memory(tmp_path), probe_platform(tmp_path)
    assert (memory.ram, memory.vram, memory.gtt, memory.ttm_limit) == (0, None, None, None)
    assert (platform.gpus, platform.kfd) == ((), "missing")


def test_gpus_are_known_by_their_makers_number(root):
    assert probe_platform(root).gpus == ("amd",)
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text("NVRM version: …")
    assert probe_platform(root).gpus == ("amd", "nvidia")


def test_the_platform_is_the_one_that_torch_computes_on(root):
    platform = probe_platform(root)
    assert platform.torch == torch.__version__ and platform.kfd == "open"
    if not torch.cuda.is_available():
        assert (platform.backend, platform.device) == ("cpu", "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S")


def test_a_rocm_device_is_named_without_its_features(root, monkeypatch):
    class Properties:
        name, gcnArchName, is_integrated = "Radeon 8060S Graphics", "gfx1151:xnack-", 1

    monkeypatch.setattr(torch.version, "hip", "7.14.60850")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties())
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["gfx1151"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (95 * GIB, 96 * GIB))
    platform, memory = probe_platform(root), probe_memory(root)
    assert (platform.build, platform.backend, platform.toolkit) == ("rocm", "rocm", "7.14.60850")
    assert (platform.device, platform.arch, platform.is_integrated) == ("Radeon 8060S Graphics", "gfx1151", True)
    assert platform.hardware_arch == "gfx1151"
    assert (memory.device_free, memory.device_total) == (95 * GIB, 96 * GIB)


@pytest.mark.parametrize(("version", "name"), [("110501", "gfx1151"), ("90010", "gfx90a"), ("100300", "gfx1030")])
def test_the_kernels_number_of_a_gpu_becomes_its_name(root, version, name):
    (root / "sys/class/kfd/kfd/topology/nodes/1/properties").write_text(f"gfx_target_version {version}\n")
    assert probe_platform(root).hardware_arch == name


def test_of_two_gpus_the_one_that_torch_uses_counts(root):
    second = root / "sys/class/kfd/kfd/topology/nodes/2/properties"
    second.parent.mkdir()
    second.write_text("gfx_target_version 110000\n")
    assert _hardware_arch(root, "gfx1100") == "gfx1100"
    assert _hardware_arch(root, "gfx1030") == "gfx1151"  # a guise


def test_only_variables_that_matter_are_kept():
    kept = probe_environment({"HOME": "/home/a", "HSA_OVERRIDE_GFX_VERSION": "11.0.0", "OMP_NUM_THREADS": "1"})
    assert kept == {"HSA_OVERRIDE_GFX_VERSION": "11.0.0", "OMP_NUM_THREADS": "1"}
