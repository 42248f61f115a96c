"""Nodules and their outlines as a segmentation head is trained on them, in three parts that share no patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...data.leaks import check_no_leak
from .labelled_nodules import Cohort, CropDraw, NoduleCrops
from .nodules import Nodule, cut_mask, field_around


@dataclass(frozen=True, kw_only=True)
class MaskCohortConfig:
    """Which nodules of a built set are used for what."""

    folder: str = ""  # a built set with nodules
    test: Literal["split", "fold"] = "split"  # the set's own test split, or one fold of all patients
    num_folds: int = 5  # into which patients are dealt; one of them validates
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_folds < 3 or not 0 <= self.fold < self.num_folds:
            raise ValueError(
                f"data.num_folds must be >= 3 and data.fold from 0 to num_folds - 1; found {self.num_folds} and "
                f"{self.fold}. The defaults are 5 and 0."
            )


def deal_masks(nodules: Sequence[Nodule], config: MaskCohortConfig) -> Cohort:
    """Deal the patients of nodules into training, validation and test; every nodule has label 0.

    Raises:
        ValueError: if there are fewer patients than folds, no test split, or a patient or a series in two
            splits.
    """
    splits = np.array([nodule.split for nodule in nodules])
    patient_ids = np.array([nodule.patient_id for nodule in nodules])
    series_ids = np.array([nodule.series_id for nodule in nodules])
    check_no_leak(splits, patient_ids, series_ids, f"the set in {config.folder}")
    if config.test == "split" and "test" not in splits:
        raise ValueError(
            f"data.test=split expects nodules in a split 'test' of {config.folder}; found "
            f"{', '.join(sorted(set(splits.tolist())))}. Deal all patients with --data.test=fold."
        )
    open_ = splits != "test" if config.test == "split" else np.ones(len(nodules), dtype=bool)
    patients = np.unique(patient_ids[open_])
    if len(patients) < config.num_folds:
        raise ValueError(
            f"A head needs nodules of at least data.num_folds={config.num_folds} patients; found {len(patients)} in "
            f"{config.folder} (the test split apart). Add scans with outlines, or lower --data.num_folds."
        )
    order = np.random.default_rng(config.seed).permutation(patients)
    fold_of = {patient: position % config.num_folds for position, patient in enumerate(order)}
    parts = []
    for patient, is_open in zip(patient_ids, open_, strict=True):
        from_validation = (fold_of[patient] - config.fold) % config.num_folds if is_open else None
        is_test = not is_open or (config.test == "fold" and from_validation == 1)
        parts.append("test" if is_test else "validation" if from_validation == 0 else "train")
    check_no_leak(parts, patient_ids, series_ids, "training, validation and test")
    return Cohort(list(nodules), np.zeros(len(nodules), dtype=np.int64), np.array(parts, dtype="<U10"))


class MaskEpoch(Dataset):
    """One pass over some nodules with their outlines; variation comes from (seed, epoch, nodule).

    The field is moved off the nodule in the test part too, by a draw of its own: where every nodule lies in the
    middle, a disc would do.

    Args:
        crops: the pixels.
        indices: which nodules, in the order in which they are read.
        seed: of the variation.
        epoch: of the variation; None moves the field and changes nothing else.
    """

    def __init__(self, crops: NoduleCrops, indices: np.ndarray, seed: int = 0, epoch: int | None = None) -> None:
        self.crops, self.indices, self.seed, self.epoch = crops, indices, seed, epoch

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        index, crops = int(self.indices[position]), self.crops
        if self.epoch is None:
            draw = CropDraw(shift_mm=crops.draw(np.random.default_rng([self.seed, index])).shift_mm)
        else:
            draw = crops.draw(np.random.default_rng([self.seed, self.epoch, index]))
        return {
            "pixel_values": crops.pixel_values(index, draw),
            "spacing_mm": torch.full((2,), crops.spacing_mm),
            "labels": torch.from_numpy(self._mask(index, draw.shift_mm)).flip(draw.flip_axes).long(),
        }

    def _mask(self, index: int, shift_mm: np.ndarray) -> np.ndarray:
        """(size, size) bool, where at least half of the readers drew on the nodule's middle slice."""
        nodule, config = self.crops.cohort.nodules[index], self.crops.config
        slices, row = self.crops.scans.slice_of(nodule)
        field = field_around(nodule, slices.spacing_mm(row)[1:], config.field_mm).moved(shift_mm / config.field_mm)
        return cut_mask(nodule, slices.pixels(row).shape, field, self.crops.size_px)
