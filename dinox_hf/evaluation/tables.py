"""Numbers as Markdown, in the same form in every part of a report."""

from collections.abc import Sequence


def interval_text(bounds: Sequence[float], style: str = ".3f") -> str:
    """Both ends of an interval: "0.512 to 0.638"."""
    return f"{bounds[0]:{style}} to {bounds[1]:{style}}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
