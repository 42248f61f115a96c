"""A part of an evaluation: what it measures, its section of the report, its lines of the summary; see suite.py."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .bench import Bench

Report = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One question to a backbone."""

    name: str
    measure: Callable[[Bench, Report], Report]
    section: Callable[[Report], str]
    verdict: Callable[[Report], list[str]] = lambda report: []
