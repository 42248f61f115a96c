"""Simulated machines: the answers that a Strix Halo, a CUDA card and a plain CPU would give."""

from dataclasses import replace

from dinox_hf.doctor.facts import AttentionPath, Facts, Memory, Platform, Work

GIB = 1 << 30
GOOD_ENVIRONMENT = {"TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL": "1", "TORCH_BLAS_PREFER_HIPBLASLT": "1"}


def path(**changes) -> AttentionPath:
    return replace(AttentionPath(is_available=True, error=0.004, milliseconds=3.0), **changes)


def strix_halo() -> Facts:
    """As it should be: 128 GB, the BIOS share small, 96 GiB for the GPU, fused attention, hipBLASLt."""
    return Facts(
        platform=Platform(
            python="3.12.3",
            torch="2.12.0+rocm7.14.0",
            build="rocm",
            toolkit="7.14.60850",
            backend="rocm",
            device="Radeon 8060S Graphics",
            arch="gfx1151",
            hardware_arch="gfx1151",
            built_for=("gfx1151",),
            is_integrated=True,
            gpus=("amd",),
            kfd="open",
            kernel="6.18.4",
            cores=32,
            threads=16,
        ),
        memory=Memory(
            ram=125 * GIB,
            ram_available=120 * GIB,
            limit=None,
            device_total=96 * GIB,
            device_free=95 * GIB,
            vram=GIB // 2,
            gtt=96 * GIB,
            ttm_limit=96 * GIB,
        ),
        environment=dict(GOOD_ENVIRONMENT),
        work=Work(
            dtype="bfloat16",
            path_in_use="flash",
            paths={name: path() for name in ("eager", "math", "flash", "efficient")},
            tflops=36.9,
            copy_gb_s=212.0,
        ),
    )


def cuda_card() -> Facts:
    facts = strix_halo()
    return replace(
        facts,
        platform=replace(
            facts.platform,
            torch="2.13.0+cu130",
            build="cuda",
            toolkit="13.0",
            backend="cuda",
            device="NVIDIA A100-SXM4-80GB",
            arch="sm_80",
            hardware_arch=None,
            built_for=("sm_80", "sm_90"),
            is_integrated=False,
            gpus=("nvidia",),
            kfd="missing",
        ),
        memory=replace(facts.memory, device_total=80 * GIB, device_free=79 * GIB, vram=None, gtt=None, ttm_limit=None),
        environment={},
        work=replace(facts.work, tflops=250.0, copy_gb_s=1700.0, paths=facts.work.paths | {"cudnn": path()}),
    )


def plain_cpu() -> Facts:
    facts = strix_halo()
    return replace(
        facts,
        platform=replace(
            facts.platform,
            torch="2.13.0+cpu",
            build="cpu",
            toolkit=None,
            backend="cpu",
            device="AMD EPYC",
            arch=None,
            hardware_arch=None,
            built_for=(),
            is_integrated=False,
            gpus=(),
            kfd="missing",
            cores=2,
            threads=2,
        ),
        memory=replace(facts.memory, device_total=None, device_free=None, vram=None, gtt=None, ttm_limit=None),
        environment={},
        work=Work(
            dtype="float32",
            path_in_use="flash",
            paths={name: path(error=3e-7) for name in ("eager", "math", "flash")},
            tflops=0.03,
            copy_gb_s=9.0,
        ),
    )
