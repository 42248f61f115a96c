"""What the readers' ratings mean: named rules that turn one to four opinions of a nodule into yes, no or left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MIN_READERS = 2  # one opinion alone is no consensus


@dataclass(frozen=True)
class LabelRule:
    """One binary question about a nodule: 1 from `positive_min` on, 0 up to `negative_max`, left out between."""

    name: str
    characteristic: str
    statistic: Literal["median", "mean"]  # of the readers' ratings
    negative_max: float
    positive_min: float
    question: str

    @property
    def text(self) -> str:
        """The rule as the report prints it."""
        return (
            f"{self.question}: 1 if the {self.statistic} {self.characteristic.replace('_', ' ')} rating is "
            f"≥ {self.positive_min:g}, 0 if ≤ {self.negative_max:g}, left out between; ≥ {MIN_READERS} readers"
        )

    def label(self, ratings: Sequence[int | None], min_readers: int = MIN_READERS) -> int | None:
        """Return 1, 0, or None for a nodule that this rule leaves out; a missing rating is no opinion."""
        ratings = [rating for rating in ratings if rating is not None]
        if len(ratings) < min_readers:
            return None
        value = np.median(ratings) if self.statistic == "median" else np.mean(ratings)
        if value >= self.positive_min:
            return 1
        return 0 if value <= self.negative_max else None


# Medians of integers are multiples of one half: 2.5 is the last value below 3.
MALIGNANCY_RULES = (
    LabelRule("malignancy A", "malignancy", "median", 2.5, 3.5, "Suspicious, indeterminate dropped"),
    LabelRule("malignancy B", "malignancy", "median", 2.5, 3.0, "Suspicious, indeterminate counted as malignant"),
    LabelRule("malignancy C", "malignancy", "median", 3.0, 3.5, "Suspicious, indeterminate counted as benign"),
)
ATTRIBUTE_RULES = (
    LabelRule("texture", "texture", "mean", 3.0, 4.5, "Solid against part-solid or non-solid"),
    LabelRule("calcification", "calcification", "median", 5.5, 6.0, "No calcification against any"),
    LabelRule("margin", "margin", "mean", 3.0, 4.0, "Sharp against poorly defined margin"),
    LabelRule("spiculation", "spiculation", "mean", 1.5, 3.0, "Spiculated against smooth"),
    LabelRule("lobulation", "lobulation", "mean", 1.5, 3.0, "Lobulated against not"),
    LabelRule("sphericity", "sphericity", "mean", 3.0, 4.0, "Round against elongated"),
    LabelRule("subtlety", "subtlety", "mean", 3.0, 4.0, "Obvious against subtle"),
    LabelRule("internal structure", "internal_structure", "mean", 1.0, 1.5, "Other than soft tissue inside"),
)
