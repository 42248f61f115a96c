"""What the model card says of the runs before the published one: how much they saw, and what they began with."""

from ..evaluation.backbones.lineage import Stage, origin_name
from ..evaluation.pages.tables import table
from .card_facts import CardFacts


def stages_table(facts: CardFacts) -> str:
    """One row for each run behind the model and their total, where every run recorded it; empty for a single run."""
    if not facts.stages_before:
        return ""
    stages = [*facts.stages_before, _this_run(facts)]
    rows = [
        [f"{n}: {s.name}", _number(s.updates), _number(s.images), _number(s.num_slices), s.data_fingerprint or "–"]
        for n, s in enumerate(stages, start=1)
    ]
    total = [_total([s.updates for s in stages]), _total([s.images for s in stages])]
    rows.append(["total", *map(_number, total), "", ""])
    header = ["stage", "updates", "images seen", "slices in its data", "data fingerprint"]
    first = facts.first_weights
    notes = [f"Before stage 1: the weights of {first[0]}, whose own training is not counted."] if first else []
    if None in total:
        notes.append("–: not recorded by that run, so without a total.")
    return "\n\n".join([table(header, rows), *notes])


def lineage_rows(facts: CardFacts) -> list[tuple[str, str]]:
    """Rows for the card's lineage: released weights first, then each earlier run with code, data and weights."""
    rows = []
    if facts.first_origin:
        digest = facts.first_origin.get("sha256")
        told = origin_name(facts.first_origin) + (f", SHA-256 {digest}" if digest else "")
        rows.append(("First weights", told))
    for number, stage in enumerate(facts.stages_before, start=1):
        parts = [
            stage.name if stage.updates is None else f"{stage.name} after {stage.updates:,} updates",
            f"commit {stage.commit}" if stage.commit else None,
            f"data {stage.data_fingerprint}" if stage.data_fingerprint else None,
            f"backbone's SHA-256 {stage.sha256}" if stage.sha256 else None,
        ]
        rows.append((f"Stage {number}", ", ".join(part for part in parts if part)))
    return rows


def _this_run(facts: CardFacts) -> Stage:
    lineage = facts.run.get("lineage", {})
    names = ("images_per_step", "data_num_slices", "data_fingerprint", "dinox_hf_commit")
    return Stage("this run", facts.step, *(lineage.get(name) for name in names), sha256=None)


def _total(numbers: list[int | None]) -> int | None:
    return None if None in numbers else sum(numbers)


def _number(number: int | None) -> str:
    return "–" if number is None else f"{number:,}"
