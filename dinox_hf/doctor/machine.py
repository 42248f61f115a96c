"""Asks the operating system and torch what there is. Nothing here starts a kernel: a sick driver would not answer."""

import os
import platform as python_platform
from collections.abc import Mapping
from pathlib import Path

import torch

from .facts import Backend, Memory, Platform

_PAGE_BYTES = 4096  # of ttm.pages_limit on x86
_PREFIXES = ("HSA_", "HIP_", "ROCR_", "TORCH_", "PYTORCH_", "MIOPEN_", "AMD_", "CUDA_", "FLASH_ATTENTION_", "OMP_")


def probe_platform(root: Path = Path("/")) -> Platform:
    """The device that torch would compute on, and what stands between it and the hardware.

    Args:
        root: of the file system; tests have one of their own.
    """
    build: Backend = "rocm" if torch.version.hip else "cuda" if torch.version.cuda else "cpu"
    has_device = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if has_device else None
    return Platform(
        python=python_platform.python_version(),
        torch=torch.__version__,
        build=build,
        toolkit=torch.version.hip or torch.version.cuda,
        backend=build if has_device else "cpu",
        device=properties.name if properties else _cpu_name(root),
        arch=(arch := _arch(properties) if properties else None),
        hardware_arch=_hardware_arch(root, arch),
        built_for=tuple(torch.cuda.get_arch_list()) if has_device else (),
        is_integrated=bool(getattr(properties, "is_integrated", False)),
        gpus=_gpus(root),
        kfd=_kfd(root / "dev/kfd"),
        kernel=python_platform.release(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
    )


def probe_memory(root: Path = Path("/")) -> Memory:
    """Memory installed, memory that the driver would give, and memory that torch sees, in bytes."""
    free, total = torch.cuda.mem_get_info(0) if torch.cuda.is_available() else (None, None)
    pages = _number(root / "sys/module/ttm/parameters/pages_limit")
    return Memory(
        ram=_meminfo(root, "MemTotal"),
        ram_available=_meminfo(root, "MemAvailable"),
        limit=_number(root / "sys/fs/cgroup/memory.max"),
        device_total=total,
        device_free=free,
        vram=_largest(root, "mem_info_vram_total"),
        gtt=_largest(root, "mem_info_gtt_total"),
        ttm_limit=pages * _PAGE_BYTES if pages else None,
    )


def probe_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that torch, ROCm, CUDA and OpenMP read, where they are set."""
    return {name: value for name, value in sorted(environment.items()) if name.startswith(_PREFIXES)}


def _arch(properties: object) -> str:
    """gfx1151 of a ROCm device, whose name may carry features behind a colon; sm_90 of a CUDA device."""
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def _hardware_arch(root: Path, arch: str | None) -> str | None:
    """gfx1151 from the kernel's 110501; of several GPUs the one that torch uses, else the first."""
    found = []
    for path in sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*/properties")):
        words = dict(line.split()[:2] for line in _text(path).splitlines() if len(line.split()) >= 2)
        if version := int(words.get("gfx_target_version", 0)):  # 0: a CPU
            major, minor, step = version // 10_000, version // 100 % 100, version % 100
            found.append(f"gfx{major}{minor:x}{step:x}")
    return arch if arch in found else next(iter(found), None)


def _gpus(root: Path) -> tuple[str, ...]:
    """Makers of the graphics devices, by their PCI numbers."""
    makers = {"0x1002": "amd", "0x10de": "nvidia"}
    found = {_text(path) for path in root.glob("sys/class/drm/card*/device/vendor")}
    found |= {"0x10de"} if (root / "proc/driver/nvidia/version").exists() else set()
    return tuple(name for number, name in makers.items() if number in found)


def _kfd(path: Path) -> str:
    if not path.exists():
        return "missing"
    return "open" if os.access(path, os.R_OK | os.W_OK) else "closed"


def _cpu_name(root: Path) -> str:
    for line in _text(root / "proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return python_platform.machine()


def _meminfo(root: Path, name: str) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return 0


def _largest(root: Path, name: str) -> int | None:
    """Of all AMD cards; the one that trains has the most."""
    return max((_number(path) or 0 for path in root.glob(f"sys/class/drm/card*/device/{name}")), default=None)


def _number(path: Path) -> int | None:
    """The number that a file of /sys holds; None for "max" and where there is no file."""
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
