"""Judges torch, device, kernel, memory and environment. Pure functions of facts; sources in docs/install.md."""

import re

from .facts import Memory, Platform
from .verdict import Finding

GIB = 1 << 30
INSTALL_ROCM = "bash accelerate_configs/install_rocm.sh, in your virtual environment"
ROCM_ENV_FILE = "source accelerate_configs/rocm_strix_halo.env.sh (in fish: …env.fish)"
# What the environment files set. Both are switches of torch that its builds for gfx1151 leave off or undecided.
ROCM_ENVIRONMENT = {
    "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1",  # flash and efficient attention
    "TORCH_BLAS_PREFER_HIPBLASLT": "1",  # matrix products
}
STRIX_HALO = "gfx1151"
# Share of the RAM for the GPU: 96 of 128 GB. The rest is for the system, the loader's workers and the page cache.
_GPU_SHARE = 0.75
_SLOWING = ("CUDA_LAUNCH_BLOCKING", "HIP_LAUNCH_BLOCKING", "AMD_SERIALIZE_KERNEL", "AMD_SERIALIZE_COPY")
_HIDING = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
_PREFER_CK = "TORCH_ROCM_FA_PREFER_CK"
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def check_torch(platform: Platform) -> Finding:
    """Was this torch built for the GPU that is here?"""
    built = "the CPU" if platform.build == "cpu" else f"{platform.build.upper()} {platform.toolkit}"
    found = f"{platform.torch} for {built}, Python {platform.python}"
    if "amd" in platform.gpus and platform.build != "rocm" and platform.backend == "cpu":
        return Finding("torch", "FAIL", found, "a ROCm build for the AMD GPU here", INSTALL_ROCM)
    if "nvidia" in platform.gpus and platform.build == "cpu":
        mend = "install torch from PyTorch's index for CUDA (docs/install.md)"
        return Finding("torch", "FAIL", found, "a CUDA build for the NVIDIA GPU here", mend)
    return Finding("torch", "ok", found)


def check_device(platform: Platform, environment: dict[str, str]) -> Finding:
    """Does torch reach the GPU, and has it kernels for it?"""
    if platform.backend == "cpu":
        return _unreached_device(platform, environment)
    found = f"{platform.device} ({platform.arch}), {platform.backend.upper()}"
    if platform.backend == "rocm" and platform.built_for and not _is_covered(platform):
        kernels = " ".join(platform.built_for)
        return Finding("device", "warn", found, f"it among the kernels of torch: {kernels}", INSTALL_ROCM)
    return Finding("device", "ok", found)


def _is_covered(platform: Platform) -> bool:
    """Kernels for gfx1151 itself, or for its family: gfx11-generic."""
    families = [name.removesuffix("-generic") for name in platform.built_for if name.endswith("-generic")]
    return platform.arch in platform.built_for or any(platform.arch.startswith(family) for family in families)


def _unreached_device(platform: Platform, environment: dict[str, str]) -> Finding:
    found = f"CPU, {platform.cores} cores ({platform.device})"
    if platform.build == "cpu":
        return Finding("device", "note", found, "a GPU for real runs; the quickstart needs none")
    hiding = next((name for name in _HIDING if environment.get(name, "0") in ("", "-1")), None)
    if hiding:
        return Finding("device", "FAIL", found, "a GPU", f"unset {hiding}, which hides every GPU")
    if platform.build == "cuda":
        mend = "nvidia-smi has to list the card; in a container: --gpus all"
    elif platform.kfd == "missing":
        mend = "load the amdgpu driver; in a container: --device /dev/kfd --device /dev/dri"
    elif platform.kfd == "closed":
        mend = 'sudo usermod -aG render,video "$USER", then log in again: /dev/kfd is closed to you'
    else:
        mend = "rocminfo has to list the GPU; if it does not, look into dmesg for amdgpu"
    return Finding("device", "FAIL", found, "a GPU", mend)


def check_kernel(platform: Platform) -> Finding | None:
    """Do kernel and ROCm agree on the registers of gfx1151? None on any other device.

    The GPU has half again as many vector registers as its relatives. Kernels before 6.17.9 and 6.18, and ROCm before
    7.2, save too few of them and hang or fault; Ubuntu's OEM kernels have the correction since 6.14.0-1018.
    """
    if not _is_strix_halo(platform):
        return None
    kernel, rocm = _version(platform.kernel), _version(platform.toolkit or "")
    found, expected = f"{platform.kernel} with ROCm {platform.toolkit}", "kernel >= 6.18, ROCm >= 7.2"
    if kernel < (6, 11):
        return Finding(
            "kernel", "FAIL", found, expected, "install kernel 6.18 or newer; 6.11 is the oldest known to work"
        )
    if rocm < (7, 2):
        return Finding("kernel", "warn", found, expected, f"{INSTALL_ROCM}: this ROCm may hang or fault")
    if kernel < (6, 17, 9) and not _is_mended_oem(platform.kernel):
        return Finding("kernel", "warn", found, expected, "update the kernel: long jobs may hang or fault (MES, GCVM)")
    return Finding("kernel", "ok", found)


def check_memory(platform: Platform, memory: Memory) -> Finding:
    """How much of the installed memory can a run really have?"""
    if platform.backend == "cpu":
        return _check_ram(memory)
    if platform.backend == "rocm" and (platform.is_integrated or _is_strix_halo(platform)):
        return _check_shared_memory(memory)
    total, free = memory.device_total or 0, memory.device_free or 0
    found = f"torch sees {_gib(total)}, {_gib(free)} free"
    if free < 0.8 * total:
        return Finding("memory", "warn", found, "most of it free", "another process holds the rest: end it")
    return Finding("memory", "ok", found)


def _check_ram(memory: Memory) -> Finding:
    usable = min(memory.ram_available, memory.limit or memory.ram_available)
    found = f"{_gib(memory.ram)} installed, {_gib(usable)} for this process"
    if usable < 4 * GIB:
        return Finding("memory", "warn", found, ">= 4 GiB", "end other programs, or lower batch.size")
    return Finding("memory", "ok", found)


def _check_shared_memory(memory: Memory) -> Finding:
    """RAM and GPU memory are the same chips: BIOS, kernel and HIP each decide how much of them torch may have."""
    total, vram = memory.device_total or 0, memory.vram or 0
    installed = memory.ram + vram
    wanted = int(_GPU_SHARE * installed)
    found = f"torch sees {_gib(total)} of {_gib(installed)} (BIOS {_gib(vram)}, GTT {_gib(memory.gtt or 0)})"
    if total >= 0.95 * wanted:
        return Finding("memory", "ok", found)
    expected = f"about {_gib(wanted)}"
    if vram > total:
        mend = "update kernel (>= 6.16.9) and ROCm: they count less than the BIOS has set aside"
    elif vram > 0.25 * installed:
        mend = "BIOS: lower the UMA frame buffer to 0.5 GB; then run the doctor again"
    elif (memory.ttm_limit or 0) < wanted:
        mend = f"amd-ttm --set {wanted // GIB}, or kernel option ttm.pages_limit={wanted // 4096}; reboot"
    else:
        mend = "install a newer ROCm: this one does not count memory mapped by GTT"
    return Finding("memory", "warn", found, expected, mend)


def check_environment(platform: Platform, environment: dict[str, str]) -> list[Finding]:
    """Variables that harm, then variables that are missing; one line of praise where there is neither."""
    found = [finding for finding in (_harmful(platform, environment), _missing(platform, environment)) if finding]
    return found or [Finding("environment", "ok", "nothing missing, nothing harmful")]


def _harmful(platform: Platform, environment: dict[str, str]) -> Finding | None:
    override = environment.get("HSA_OVERRIDE_GFX_VERSION")
    hardware = platform.hardware_arch or platform.arch
    if platform.backend == "rocm" and override and _gfx(override) != hardware:
        found = f"HSA_OVERRIDE_GFX_VERSION={override} on {hardware}"
        return Finding("environment", "FAIL", found, "none: kernels of another GPU", "unset HSA_OVERRIDE_GFX_VERSION")
    allocator = next((name for name in _ALLOCATOR if name in environment), None)
    options = environment.get(allocator or "", "")
    if platform.backend == "rocm" and "expandable_segments:True" in options and "max_split_size_mb" in options:
        mend = f"drop one of the two from {allocator}; together they lost data on ROCm 7.14"
        return Finding("environment", "FAIL", f"{allocator}={options}", "", mend)
    if _is_strix_halo(platform) and environment.get(_PREFER_CK, "0") != "0":
        mend = f"unset {_PREFER_CK}: torch has Composable Kernel for gfx942 and gfx950"
        return Finding("environment", "warn", f"{_PREFER_CK} is set", "", mend)
    slowing = [name for name in _SLOWING if environment.get(name, "0") != "0"]
    if platform.backend != "cpu" and slowing:
        return Finding("environment", "warn", f"{slowing[0]} is set", "", f"unset {slowing[0]}: every kernel waits")
    return None


def _missing(platform: Platform, environment: dict[str, str]) -> Finding | None:
    if platform.backend == "cpu" and platform.threads < platform.cores:
        found = f"{platform.threads} of {platform.cores} cores compute"
        return Finding("environment", "warn", found, "", f"export OMP_NUM_THREADS={platform.cores}")
    if _is_strix_halo(platform):
        missing = [f"{name}={value}" for name, value in ROCM_ENVIRONMENT.items() if environment.get(name) != value]
        if missing:
            return Finding("environment", "warn", f"not set: {' '.join(missing)}", "", ROCM_ENV_FILE)
    return None


def _is_strix_halo(platform: Platform) -> bool:
    return platform.backend == "rocm" and STRIX_HALO in (platform.arch, platform.hardware_arch)


def _version(text: str) -> tuple[int, ...]:
    """Leading numbers: 6.14.0-1018-oem is (6, 14, 0), 7.2.26015 is (7, 2, 26015)."""
    return tuple(int(number) for number in re.match(r"[\d.]*", text).group().strip(".").split(".") if number)


def _is_mended_oem(kernel: str) -> bool:
    oem = re.fullmatch(r"6\.14\.0-(\d+)-oem", kernel)
    return oem is not None and int(oem.group(1)) >= 1018


def _gfx(override: str) -> str:
    """11.5.1 is gfx1151; the last two numbers are hexadecimal digits in the name."""
    major, minor, step = (*(int(part) for part in override.split(".") if part.isdigit()), 0, 0, 0)[:3]
    return f"gfx{major}{minor:x}{step:x}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.3g} GiB"
