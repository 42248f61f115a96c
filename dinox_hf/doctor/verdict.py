"""One line of the doctor's report: what was found, what should be there, how bad that is and what to do."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "warn", "FAIL"]  # note: nothing to compare with, or nothing to mend


@dataclass(frozen=True)
class Finding:
    """A verdict on one thing. `mend` is a command or a setting; empty where there is nothing to mend."""

    name: str
    verdict: Verdict
    found: str
    expected: str = ""
    mend: str = ""


def exit_code(findings: list[Finding]) -> int:
    """1 if anything failed, so that a script can ask; warnings and notes are 0."""
    return int(any(finding.verdict == "FAIL" for finding in findings))
