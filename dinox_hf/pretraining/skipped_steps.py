"""Steps whose gradient was not finite: counted, and their slices named, without asking the host inside a step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.loader import PretrainLoader


@dataclass(frozen=True)
class SkippedStep:
    """An update that was left out."""

    step: int  # counted from 0
    rows: list[int]  # of this process


class SkippedSteps:
    """Remembers flag and rows of every step on the device, and looks at them when the host waits anyway."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, Tensor, list[Tensor]]] = []  # since the last `settle`: log_every of them at most
        self.total = 0
        self.in_a_row = 0
        self.longest = 0  # run of skipped steps since the last `settle`, together with those that led up to it

    def watch(self, step: int, is_finite: Tensor, rows: list[Tensor]) -> None:
        """Take note of a step: its () bool flag and the rows of its micro-batches; no host synchronisation."""
        self.waiting.append((step, is_finite, rows))

    def settle(self) -> list[SkippedStep]:
        """Count what happened since the last call; the host waits here. Returns the skipped steps among it."""
        if not self.waiting:
            return []
        skipped, self.longest = [], self.in_a_row
        flags = torch.stack([is_finite for _, is_finite, _ in self.waiting]).tolist()
        for is_finite, (step, _, rows) in zip(flags, self.waiting, strict=True):
            self.in_a_row = 0 if is_finite else self.in_a_row + 1
            self.longest = max(self.longest, self.in_a_row)
            if not is_finite:
                skipped.append(SkippedStep(step, torch.cat(rows).tolist()))
        self.total += len(skipped)
        self.waiting.clear()
        return skipped

    def state(self) -> dict[str, Tensor]:
        """Counts that a resumed run goes on from; `settle` before asking."""
        return {"skipped.total": torch.tensor(self.total), "skipped.in_a_row": torch.tensor(self.in_a_row)}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`; a checkpoint from before there was a count begins at 0."""
        self.total = int(tensors.get("skipped.total", 0))
        self.in_a_row = int(tensors.get("skipped.in_a_row", 0))


def slice_names(loader: object, rows: list[int]) -> list[dict[str, object]]:
    """Which slices these rows are: set, patient's pseudonym, series and number in the series; else the row alone."""
    if not isinstance(loader, PretrainLoader):
        return [{"row": row} for row in rows]  # a stream has no way back to a row
    names = []
    for row in rows:
        part, row_there = loader.slices.locate(row)
        names.append(
            {
                "set": str(part.folder),
                "patient_id": part.patient_id(row_there),
                "series_id": part.series_id(row_there),
                "slice_index": row_there - part.series_rows(row_there).start,
            }
        )
    return names


def in_words(names: list[dict[str, object]], most: int = 3) -> str:
    """The first few slices as a person would name them."""
    shown = [
        f"patient {name['patient_id']} series {name['series_id']} slice {name['slice_index']}"
        if "patient_id" in name
        else f"row {name['row']}"
        for name in names[:most]
    ]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(shown) + rest
