"""Heat maps against masks as an `evaluate.Metric`; `dinox_hf.metrics.localisation` holds the definitions."""

import datasets
import evaluate
import numpy as np

from dinox_hf.metrics.localisation import above_chance, score_maps

_INPUTS = """
Args:
    predictions: one heat map a case, (H, W), non-negative, any scale; all cases of one size.
    references: the masks of the objects, (H, W) of 0 and 1 or bool, at least one pixel each.
    mass: share of the heat that the binarised map holds, 0.6 unless told otherwise.

Returns:
    pointing: share of the maps whose maximum lies on the object; ties count their share.
    chance: mean share of the image that the object covers.
    above_chance: pointing corrected for chance; 0 for a blind map, 1 for one that always hits.
    iou, dice: overlap of the object with the brightest pixels that hold `mass` of the heat, mean over the cases.
    auprc: area under the precision-recall curve over pixels, mean over the cases.
"""


class Localisation(evaluate.Metric):
    """`compute(predictions=maps, references=masks)`; ValueError where a mask is empty or of another size."""

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("bool")))
        return evaluate.MetricInfo(
            description="Does a heat map lie on the object? Pointing game, overlap at a share of the heat, AUPRC.",
            citation="Pointing game: Zhang et al., arXiv:1608.00507",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": image, "references": mask}),
        )

    def _compute(self, predictions: list, references: list, mass: float = 0.6) -> dict[str, float]:
        scores = score_maps(_stacked("predictions", predictions), _stacked("references", references), mass)
        return {
            "pointing": float(scores.hit.mean()),
            "chance": float(scores.chance.mean()),
            "above_chance": above_chance(scores.hit, scores.chance),
            "iou": float(scores.iou.mean()),
            "dice": float(scores.dice.mean()),
            "auprc": float(scores.auprc.mean()),
        }


def _stacked(name: str, images: list) -> np.ndarray:
    images = [np.asarray(image) for image in images]
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(
            f"localisation expects {name} of one size; found {', '.join(map(str, shapes))}. "
            f"Resample them to one grid, or compute size by size."
        )
    return np.stack(images)
