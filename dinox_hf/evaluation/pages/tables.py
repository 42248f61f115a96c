"""Numbers as Markdown, in the same form in every part of a report."""

from collections.abc import Sequence
from typing import Any


def interval_text(bounds: Sequence[float], style: str = ".3f") -> str:
    """Both ends of an interval: "0.512 to 0.638"."""
    return f"{bounds[0]:{style}} to {bounds[1]:{style}}"


def gain_interval(gain: dict[str, Any]) -> str:
    """Interval of a difference of two AUCs, unless its three decimals would read as a certainty that it is not.

    Args:
        gain: with `interval`, and `always_zero` where every resample was looked at.
    """
    if gain.get("always_zero"):
        return "none: the same AUC in every resample"
    text = interval_text(gain["interval"], "+.3f")
    return text if any(digit in text for digit in "123456789") else "within ±0.0005"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure(report: dict[str, Any], name: str, caption: str) -> str:
    """A figure of the report with its caption; empty where it was not drawn."""
    path = report["figures"].get(name)
    return f"![{caption}]({path})\n\n*{caption}*" if path else ""
