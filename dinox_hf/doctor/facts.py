"""What was found on a machine, before anybody judges it. Everything the checks know stands in these records."""

from dataclasses import dataclass, field
from typing import Literal

Backend = Literal["rocm", "cuda", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Interpreter, torch, device and driver."""

    python: str
    torch: str
    build: Backend  # what this torch was compiled for
    toolkit: str | None  # HIP or CUDA version of the build
    backend: Backend  # what torch really computes on here
    device: str  # its name, as the driver gives it
    arch: str | None  # gfx1151, sm_90, … as torch sees it, which HSA_OVERRIDE_GFX_VERSION can change
    hardware_arch: str | None  # of an AMD GPU, as the kernel knows it
    built_for: tuple[str, ...]  # architectures that this torch has kernels for
    is_integrated: bool  # the GPU shares its memory with the CPU
    gpus: tuple[str, ...]  # makers of the GPUs that the operating system sees: amd, nvidia
    kfd: Literal["open", "closed", "missing"]  # /dev/kfd, through which ROCm reaches an AMD GPU
    kernel: str  # release of the Linux kernel
    cores: int
    threads: int  # that torch computes with on the CPU


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes; None where this machine has no such number."""

    ram: int  # what the operating system has for itself; a carve-out for the GPU is not in it
    ram_available: int
    limit: int | None  # of this container or job
    device_total: int | None  # what torch sees
    device_free: int | None
    vram: int | None  # amdgpu: a card's own memory, or what the BIOS carved out of the RAM for an integrated GPU
    gtt: int | None  # amdgpu: RAM that the driver would map for the GPU
    ttm_limit: int | None  # RAM that the kernel lets all drivers map, ttm.pages_limit


@dataclass(frozen=True, kw_only=True)
class AttentionPath:
    """One way of computing attention, against float32 written out, forward and backward, on the shapes of our ViTs."""

    is_available: bool
    reason: str = ""  # why it is not available, or how it broke
    is_finite: bool = True
    is_finite_for_large_inputs: bool = True  # eight times as large as a normalised token gives
    error: float = 0.0  # largest ||path - reference|| / ||reference|| of output and gradients
    milliseconds: float = 0.0  # forward and backward of all shapes together

    @classmethod
    def broken(cls, reason: str) -> "AttentionPath":
        """A path that ended its process, hung, or raised."""
        return cls(is_available=True, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the device did when it was asked to compute."""

    dtype: str  # of training on this device
    path_in_use: str | None = None  # the kernel that torch picks for our attention
    paths: dict[str, AttentionPath] = field(default_factory=dict)
    tflops: float | None = None  # of a matrix product in that dtype
    copy_gb_s: float | None = None  # read and written, in 10^9 bytes per second
    broken: dict[str, str] = field(default_factory=dict)  # tasks that gave no answer, and why


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything about a machine."""

    platform: Platform
    memory: Memory
    environment: dict[str, str]  # the variables that matter to torch, ROCm and CUDA, where they are set
    work: Work
