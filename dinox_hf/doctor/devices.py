"""What a device should do by its maker's figures: dense bfloat16 matrix products and memory bandwidth.

- Radeon 8060S (gfx1151): 40 compute units x 512 operations per clock x 2.9 GHz, and 256 bits of LPDDR5X-8000;
  https://llm-tracker.info/_TOORG/Strix-Halo and AMD's page on Strix Halo, named in docs/install.md. 8050S: fewer
  compute units, at a clock for which no source was found.
- A100: NVIDIA's data sheet as quoted at https://glennklockwood.com/garden/processors/A100.
- H100 and H200: NVIDIA's figures for the module, without sparsity, compared at
  https://itkb.uw.cz/2026/06/nvidia-h200-vs-b300-precisions-cores.html.
- RTX 4090: products summed in float32, as at https://gist.github.com/mikasenghaas/d63ded03f1f0417b1677627119bacc0d.
- MI300X: sources disagree on what counts as dense (1,307 or 2,615), so only its bandwidth stands here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peak:
    """Upper bounds; None where no source was found."""

    tflops: float | None
    gb_s: float | None


# Looked for in the device's name, in this order.
_BY_NAME = {
    "Radeon 8060S": Peak(59.4, 256),
    "Radeon 8050S": Peak(None, 256),
    "A100-SXM4-40GB": Peak(312, 1555),
    "A100-SXM4-80GB": Peak(312, 2039),
    "H100 80GB HBM3": Peak(989, 3350),
    "H200 NVL": Peak(None, 4800),  # a card with less power than the module
    "H200": Peak(989, 4800),
    "RTX 4090": Peak(165, 1008),
    "MI300X": Peak(None, 5300),
}
# Some drivers call an integrated GPU "AMD Radeon Graphics"; then its architecture has to do.
_BY_ARCH = {"gfx1151": Peak(59.4, 256)}

UNKNOWN = Peak(None, None)


def peak_of(device: str, arch: str | None) -> Peak:
    """The peak of a device by its name, else by its architecture; `UNKNOWN` for any other."""
    for name, peak in _BY_NAME.items():
        if name.lower() in device.lower():
            return peak
    return _BY_ARCH.get(arch or "", UNKNOWN)
