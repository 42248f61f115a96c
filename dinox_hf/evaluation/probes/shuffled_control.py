"""Shuffled labels as a check of the procedure: a probe of labels that mean nothing must score one half."""

from typing import Any

from ..pages.tables import interval_text
from .probe_suite import SHUFFLED


def shuffled_line(probes: list[dict[str, Any]]) -> str | None:
    """One line about the probes whose shuffled control leaves 0.5 out of its interval; None if there are none.

    Args:
        probes: of `probe_record`.
    """
    controls = [
        (probe["question"], score) for probe in probes for score in probe["scores"] if score["features"] == SHUFFLED
    ]
    off = [
        (question, score) for question, score in controls if not score["interval"][0] <= 0.5 <= score["interval"][1]
    ]
    if not off:
        return None
    listed = ", ".join(
        f"{question} {score['auc']:.3f} ({interval_text(score['interval'])})" for question, score in off
    )
    leak = "; above 0.5 perhaps a leak of labels" if any(score["interval"][0] > 0.5 for _, score in off) else ""
    return (
        f"**Shuffled labels leave 0.5 out of their 95 % interval in {len(off)} of {len(controls)} probes:** {listed}. "
        f"There are too few patients or seeds to trust the intervals of these probes{leak}."
    )
