"""What the cards of all heads say alike: metadata, notice, channels and spacing, from report.json."""

from typing import Any

CHANNELS = {
    "windows": " (one slice through three windows)",
    "neighbours": " (three neighbouring slices through one window)",
}


def licence_and_tags(report: dict[str, Any]) -> dict[str, Any]:
    """Entries of the metadata: a head stays under the licence of the weights that it is derived from."""
    licence = report["base"]["licence"]
    is_ours = licence is not None and licence.lower().startswith("gpl-3.0")
    synthetic = ["synthetic-data"] if report["data"]["is_synthetic"] else []
    return {
        **({"license": "gpl-3.0"} if is_ours else {"license": "other", "license_name": licence or "unknown"}),
        "tags": ["dinov3", "medical", "ct", "lung-nodule", *synthetic],
    }


def notice(report: dict[str, Any]) -> str:
    """What a head is not for."""
    lines = ["> **Research use only.** Not for diagnosis; not a medical device."]
    if report["data"]["is_synthetic"]:
        lines += [
            ">",
            "> **Trained on synthetic data.** The scans were simulated by a computer program. This head shows that "
            "the software works; it is of no use for patients.",
        ]
    return "\n".join(lines)


def spacing_argument(report: dict[str, Any]) -> str:
    """What a snippet passes beside the pixels where coordinates are millimetres; "" where they are not."""
    if not report["is_metric"]:
        return ""
    return f", spacing_mm=torch.full((1, 2), {report['field_mm'] / report['size_px']:g})"


def licences(report: dict[str, Any]) -> tuple[str, str]:
    """The terms of the weights, to end a sentence, and a sentence on those of the data."""
    base, data = report["base"]["licence"], report["data"]["licence"]
    terms = f"licence `{base}`" if base else "licence, which is not known here"
    return terms, f"The training data are under {data}." if data else "The data's licence is not known."
