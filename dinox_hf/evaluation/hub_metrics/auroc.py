"""Area under the ROC curve as an `evaluate.Metric`; `dinox_hf.metrics.auroc` holds the definition."""

import datasets
import evaluate

from dinox_hf.metrics.auroc import auroc

_INPUTS = """
Args:
    predictions: one score a case; higher means more likely positive.
    references: 0 or 1 a case; both must occur.

Returns:
    auroc: from 0 to 1; 0.5 is chance, a tie counts one half.
"""


class Auroc(evaluate.Metric):
    """`compute(predictions=scores, references=labels)["auroc"]`; ValueError for one class or a score that is NaN."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="How often a positive case scores above a negative one; a tie counts one half.",
            citation="Hanley and McNeil, Radiology 1982",
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions: list[float], references: list[int]) -> dict[str, float]:
        return {"auroc": auroc(references, predictions)}
