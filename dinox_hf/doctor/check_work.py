"""Judges what the device computed: is attention sound on every path, and is the device as fast as it should be?"""

from .devices import UNKNOWN, peak_of
from .facts import AttentionPath, Platform, Work
from .verdict import Finding

# Largest ||path - reference|| / ||reference||. bfloat16 keeps 8 bits: sound kernels stay below 1 %.
_TOLERANCE = {"bfloat16": 0.03, "float16": 0.01, "float32": 0.002}
# Of the peak. A Radeon 8060S was seen at 62 % in products with hipBLASLt and 9 % without, and at 83 % in copies.
_ENOUGH_TFLOPS, _ENOUGH_BANDWIDTH = 0.4, 0.6
_AOTRITON = "TORCH_ROCM_AOTRITON_ENABLE_EXPERIMENTAL"


def check_path_in_use(platform: Platform, environment: dict[str, str], work: Work) -> Finding:
    """Does training attend through a fused kernel?"""
    if work.path_in_use is None:
        return Finding("attention", "FAIL", work.broken.get("choice", "no answer"), "an answer", "see the lines below")
    path = work.paths.get(work.path_in_use)
    duration = f", {path.milliseconds:.3g} ms" if path and path.milliseconds else ""
    found = f"sdpa takes {work.path_in_use} in {work.dtype}{duration}"
    if platform.backend == "cpu" or work.path_in_use != "math":
        return Finding("attention", "ok", found)
    if platform.backend == "rocm" and environment.get(_AOTRITON) != "1":
        mend = f"export {_AOTRITON}=1"
    else:
        mend = "install a newer torch: this build has no fused kernel for the device"
    return Finding("attention", "warn", found, "flash or efficient; math stores T x T", mend)


def check_paths(work: Work, environment: dict[str, str]) -> list[Finding]:
    """One line for the paths that are sound and one for those that are not; a broken path in use is a failure."""
    faults = {name: fault for name, path in work.paths.items() if (fault := _fault(path, work.dtype))}
    sound = {name: path for name, path in work.paths.items() if path.is_available and name not in faults}
    findings = []
    if sound:
        worst = max(path.error for path in sound.values())
        found = f"{', '.join(sound)}: within {_percent(worst)} of float32"
        findings.append(Finding("NaN check", "ok", found))
    if faults:
        found = "; ".join(f"{name} {fault}" for name, fault in faults.items())
        is_in_use = work.path_in_use in faults or not sound
        findings.append(
            Finding("NaN check", "FAIL" if is_in_use else "warn", found, "", _way_around(work, environment, is_in_use))
        )
    return findings


def _fault(path: AttentionPath, dtype: str) -> str | None:
    """What is wrong with a path; None if it is sound or absent."""
    if not path.is_available:
        return None
    if path.reason:
        return f"broke: {path.reason}"
    if not path.is_finite:
        return "gives NaN or infinity"
    if not path.is_finite_for_large_inputs:
        return "gives NaN for large logits"
    if not path.error <= _TOLERANCE[dtype]:  # NaN is not below anything
        return f"is off by {_percent(path.error)}, allowed {_percent(_TOLERANCE[dtype])}"
    return None


def _way_around(work: Work, environment: dict[str, str], is_in_use: bool) -> str:
    if not is_in_use:
        return f"nothing now: training takes {work.path_in_use}"
    if environment.get(_AOTRITON) == "1":
        return f"unset {_AOTRITON}: slower, but sound; or another torch build"
    return "do not train with this torch build; install another (docs/install.md)"


def check_matmul(platform: Platform, work: Work, environment: dict[str, str]) -> Finding:
    """Matrix products, of which a ViT consists, against the peak of the device."""
    if platform.backend == "rocm" and environment.get("TORCH_BLAS_PREFER_HIPBLASLT") != "1":
        mend = "export TORCH_BLAS_PREFER_HIPBLASLT=1, and compare"
    else:
        mend = "raise the power limit, end other jobs, or try another torch build"
    peak = (
        peak_of(platform.device, platform.hardware_arch or platform.arch).tflops
        if work.dtype == "bfloat16"
        else UNKNOWN.tflops
    )
    return _against_peak("matmul", work, "matmul", work.tflops, peak, f"TFLOP/s {work.dtype}", _ENOUGH_TFLOPS, mend)


def check_copy(platform: Platform, work: Work) -> Finding:
    """Memory bandwidth, on which norms, activations and the optimizer live."""
    peak = peak_of(platform.device, platform.hardware_arch or platform.arch).gb_s
    mend = "raise the power limit, end other jobs; laptops: plug in the charger"
    return _against_peak("copy", work, "copy", work.copy_gb_s, peak, "GB/s", _ENOUGH_BANDWIDTH, mend)


def _against_peak(
    name: str, work: Work, task: str, value: float | None, peak: float | None, unit: str, enough: float, mend: str
) -> Finding:
    if value is None:
        return Finding(
            name, "FAIL", work.broken.get(task, "no answer"), "an answer", "look into dmesg; docs/install.md"
        )
    if peak is None:
        return Finding(name, "note", f"{value:.3g} {unit}; no expectation, since this device is not in our table")
    found = f"{value:.3g} of {peak:g} {unit} ({value / peak:.0%})"
    if value < enough * peak:
        return Finding(name, "warn", found, f">= {enough:.0%}", mend)
    return Finding(name, "ok", found)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share >= 1e-4 else "0.01 %"
