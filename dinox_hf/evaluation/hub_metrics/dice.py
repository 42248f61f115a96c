"""Dice and IoU of masks as an `evaluate.Metric`; `dinox_hf.metrics.overlap` holds the definitions."""

import datasets
import evaluate
import numpy as np

from dinox_hf.metrics.overlap import dice, iou

_INPUTS = """
Args:
    predictions: one mask a case, (H, W) of 0 and 1 or bool; cases may differ in size.
    references: the true masks, each of the size of its prediction.

Returns:
    dice, iou: means over the cases; a case whose masks are both empty counts 1.
    dice_by_case, iou_by_case: lists, one value a case.
"""


class Dice(evaluate.Metric):
    """`compute(predictions=masks, references=masks)["dice"]`; ValueError where two masks differ in size."""

    def _info(self) -> evaluate.MetricInfo:
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("bool")))
        return evaluate.MetricInfo(
            description="Twice the common area over the sum of both areas, and the common area over that of either.",
            citation="Dice, Ecology 1945; Jaccard, Bull. Soc. Vaudoise Sci. Nat. 1901",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": mask, "references": mask}),
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float | list[float]]:
        pairs = [
            (np.asarray(one, dtype=bool), np.asarray(other, dtype=bool))
            for one, other in zip(predictions, references, strict=True)
        ]
        by_case = {"dice": [float(dice(*pair)) for pair in pairs], "iou": [float(iou(*pair)) for pair in pairs]}
        means = {name: float(np.mean(values)) for name, values in by_case.items()}
        return means | {f"{name}_by_case": values for name, values in by_case.items()}
