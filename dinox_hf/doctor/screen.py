"""The report as text: one screen, a line for each finding and one below it for its mend."""

import textwrap

from .verdict import Finding

WIDTH = 100  # columns
_HINT = " " * 6 + "mend: "


def render(findings: list[Finding]) -> str:
    """At most 24 lines of 100 columns for all that the doctor checks."""
    lines = ["DINO-X doctor"]
    for finding in findings:
        expected = f"; expected {finding.expected}" if finding.expected else ""
        lines.append(_fit(f"{finding.verdict:<4}  {finding.name:<11}  {finding.found}{expected}"))
        if finding.mend:
            lines.append(_fit(_HINT + finding.mend))
    return "\n".join([*lines, _summary(findings)])


def _summary(findings: list[Finding]) -> str:
    failed, warned = (sum(finding.verdict == verdict for finding in findings) for verdict in ("FAIL", "warn"))
    if failed:
        return f"{failed} to mend before a run, {warned} worth a look. docs/install.md says more."
    if warned:
        return f"Ready to train; {warned} worth a look. docs/install.md says more."
    return "Ready to train."


def _fit(line: str) -> str:
    """Cut what is too long, such as the words of a library; the indent stays."""
    text = line.lstrip()
    indent = line[: len(line) - len(text)]
    return line if len(line) <= WIDTH else indent + textwrap.shorten(text, WIDTH - len(indent), placeholder=" …")
