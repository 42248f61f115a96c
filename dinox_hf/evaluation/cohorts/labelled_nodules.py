"""Labelled nodules in three parts that share no patient, and their pixels as a head is trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...data.leaks import check_no_leak
from ...model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from ...tasks.classification import HeadConfig
from .labels import MALIGNANCY_RULES, LabelRule
from .nodules import Nodule, ScanSet, cut_field, field_around
from .splits import patient_folds

PARTS = ("train", "validation", "test")
_MIN_TRAINING_PATIENTS = 2  # of each class


@dataclass(frozen=True, kw_only=True)
class CohortConfig:
    """Which nodules of a built set are used, and which of them for what."""

    folder: str = ""  # a built set with nodules
    rule: Literal["A", "B", "C"] = "A"  # what a malignancy rating of 3 means: left out, malignant, benign
    min_readers: int = 2  # who must have rated a nodule
    test: Literal["split", "fold"] = "split"  # the set's own test split, or one fold of all patients
    num_folds: int = 5  # into which patients are dealt; one of them validates
    fold: int = 0  # which one: another number, another part of the patients
    seed: int = 0  # of the dealing

    def __post_init__(self) -> None:
        if self.num_folds < 3 or not 0 <= self.fold < self.num_folds or self.min_readers < 1:
            raise ValueError(
                f"data.num_folds must be >= 3, data.fold from 0 to num_folds - 1 and data.min_readers >= 1; found "
                f"{self.num_folds}, {self.fold} and {self.min_readers}. The defaults are 5, 0 and 2."
            )

    @property
    def label_rule(self) -> LabelRule:
        """The rule by its letter."""
        return next(rule for rule in MALIGNANCY_RULES if rule.name.endswith(self.rule))


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The square of a slice around a nodule, and how it varies in training."""

    field_mm: float = 32.0  # side of the square
    size_px: int | None = None  # its side in pixels; null: what the backbone was trained with
    flip: bool = True  # left-right and front-back, each with probability one half
    shift_mm: float = 2.0  # the square moves off the nodule by up to this much, along both axes
    level_jitter_hu: float = 50.0  # every window's level moves by up to this much
    width_jitter: float = 0.1  # every window's width changes by up to this share

    def __post_init__(self) -> None:
        if self.field_mm <= 0 or self.shift_mm < 0 or self.level_jitter_hu < 0 or not 0 <= self.width_jitter < 1:
            raise ValueError(
                f"crops.field_mm must be > 0, shift_mm and level_jitter_hu >= 0, width_jitter from 0 to below 1; "
                f"found {self.field_mm}, {self.shift_mm}, {self.level_jitter_hu} and {self.width_jitter}. "
                f"0 switches one off."
            )


@dataclass(frozen=True)
class Cohort:
    """Nodules with a label, each in one part; no patient is in two."""

    nodules: list[Nodule]
    labels: np.ndarray  # (n,) 0 or 1
    parts: np.ndarray  # (n,) of PARTS

    @property
    def patient_ids(self) -> np.ndarray:
        """(n,) patient of each nodule."""
        return np.array([nodule.patient_id for nodule in self.nodules])

    def indices(self, part: str) -> np.ndarray:
        """Which nodules belong to a part."""
        return np.flatnonzero(self.parts == part)

    def counts(self) -> dict[str, dict[str, int]]:
        """Nodules, those with label 1, and patients of every part."""
        found = {}
        for part in PARTS:
            rows = self.indices(part)
            patients = len(np.unique(self.patient_ids[rows]))
            found[part] = {"nodules": len(rows), "label_1": int(self.labels[rows].sum()), "patients": patients}
        return found


def deal_cohort(nodules: Sequence[Nodule], config: CohortConfig) -> Cohort:
    """Label the nodules by a rule and deal their patients into training, validation and test.

    Args:
        nodules: of all splits of a built set.
        config: the rule, and how to deal.

    Raises:
        ValueError: if one class is absent or has fewer patients than folds, if a part lacks a class, or if a patient
            or a series stands in two splits of the set.
    """
    rule = config.label_rule
    labelled = [(nodule, rule.label(nodule.ratings[rule.characteristic], config.min_readers)) for nodule in nodules]
    used = [nodule for nodule, label in labelled if label is not None]
    labels = np.array([label for _, label in labelled if label is not None], dtype=np.int64)
    splits = np.array([nodule.split for nodule in used])
    patient_ids = np.array([nodule.patient_id for nodule in used])
    series_ids = np.array([nodule.series_id for nodule in used])
    if config.test == "split" and "test" not in splits:
        raise ValueError(
            f"data.test=split expects labelled nodules in a split 'test' of {config.folder}; found "
            f"{', '.join(sorted(set(splits))) or 'none at all'}. Deal all patients with --data.test=fold."
        )
    check_no_leak(splits, patient_ids, series_ids, f"the set in {config.folder}")
    open_ = splits != "test" if config.test == "split" else np.ones(len(used), dtype=bool)
    _refuse_too_few_patients(labels[open_], patient_ids[open_], config)
    folds = patient_folds(labels[open_], patient_ids[open_], config.num_folds, config.seed)
    parts = np.full(len(used), "test", dtype="<U10")
    parts[open_] = "train"
    parts[np.flatnonzero(open_)[folds == config.fold]] = "validation"
    if config.test == "fold":
        parts[folds == (config.fold + 1) % config.num_folds] = "test"
    check_no_leak(parts, patient_ids, series_ids, "training, validation and test")
    _refuse_a_part_without_a_class(labels, patient_ids, parts)
    return Cohort(used, labels, parts)


@dataclass(frozen=True)
class CropDraw:
    """What chance decided about one crop; nothing by default."""

    shift_mm: np.ndarray = field(default_factory=lambda: np.zeros(2))  # off the nodule along y and x
    level_shift_hu: float = 0.0
    width_factor: float = 1.0
    flip_axes: list[int] = field(default_factory=list)  # of the pixels


class NoduleCrops:
    """The pixels of any nodule of a cohort, as the image processor makes them.

    Args:
        scans: where the slices are.
        cohort: the nodules.
        processor: windows and normalises, in training and at inference alike; its size is that of a crop.
        config: where to cut.
        head: how many slices through the nodule make one example, and how far apart.
    """

    def __init__(
        self, scans: ScanSet, cohort: Cohort, processor: Dinov3CTImageProcessor, config: CropConfig, head: HeadConfig
    ) -> None:
        self.scans, self.cohort, self.processor, self.config = scans, cohort, processor, config
        self.size_px = processor.size["height"]
        self.num_slices, self.slice_step_mm = head.slices_seen, head.slice_step_mm
        self.spacing_mm = config.field_mm / self.size_px  # size of a pixel of a crop

    def draw(self, rng: np.random.Generator) -> CropDraw:
        """Draw the variation of one crop in training."""
        config = self.config
        return CropDraw(
            shift_mm=rng.uniform(-config.shift_mm, config.shift_mm, 2),
            level_shift_hu=rng.uniform(-config.level_jitter_hu, config.level_jitter_hu),
            width_factor=rng.uniform(1 - config.width_jitter, 1 + config.width_jitter),
            flip_axes=[axis for axis in (-2, -1) if rng.random() < (0.5 if config.flip else 0.0)],
        )

    def pixel_values(self, index: int, draw: CropDraw | None = None) -> Tensor:
        """One nodule: (3, size, size), or (S, 3, size, size) of several slices from the feet to the head.

        Args:
            index: of the nodule in the cohort.
            draw: how the crop varies; None for not at all.
        """
        draw = draw or CropDraw()
        windows = np.array(self.processor.hu_windows, dtype=float)
        windows[:, 0] += draw.level_shift_hu
        windows[:, 1] *= draw.width_factor
        fields_hu = self.fields_hu(index, draw.shift_mm)
        # Padding became air when the field was cut.
        pixels = self.processor(
            list(fields_hu),
            hu_windows=windows.tolist(),
            padding_hu=None,
            return_tensors="pt",
        )["pixel_values"]
        pixels = pixels.flip(draw.flip_axes)
        return pixels if self.num_slices > 1 else pixels[0]

    def fields_hu(self, index: int, shift_mm: np.ndarray) -> np.ndarray:
        """(S, C, size, size) HU around one nodule; beyond the ends of the series the last slice is repeated.

        Args:
            index: of the nodule in the cohort.
            shift_mm: (2,) how far the field moves off the nodule along y and x.
        """
        nodule = self.cohort.nodules[index]
        slices, middle = self.scans.slice_of(nodule)
        spacing_mm, series = slices.spacing_mm(middle), slices.series_rows(middle)
        square = field_around(nodule, spacing_mm[1:], self.config.field_mm).moved(shift_mm / self.config.field_mm)
        fields_hu = []
        for position in range(self.num_slices):
            offset_mm = (position - self.num_slices // 2) * self.slice_step_mm
            row = min(max(middle + round(offset_mm / spacing_mm[0]), series.start), series.stop - 1)
            has_neighbours = self.processor.channels == "neighbours"
            slices_hu = slices.neighbours(row) if has_neighbours else slices.pixels(row)[None]
            fields_hu.append(cut_field(slices_hu, square, self.size_px, slices.padding_hu(row)))
        return np.stack(fields_hu)


class NoduleEpoch(Dataset):
    """One pass over some nodules; every variation comes from (seed, epoch, nodule), whoever loads it.

    Args:
        crops: the pixels.
        indices: which nodules, in the order in which they are read.
        seed: of the variation.
        epoch: of the variation; None for none.
    """

    def __init__(self, crops: NoduleCrops, indices: np.ndarray, seed: int = 0, epoch: int | None = None) -> None:
        self.crops, self.indices, self.seed, self.epoch = crops, indices, seed, epoch

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        index = int(self.indices[position])
        draw = None
        if self.epoch is not None:
            draw = self.crops.draw(np.random.default_rng([self.seed, self.epoch, index]))
        return {
            "pixel_values": self.crops.pixel_values(index, draw),
            # Only a network with metric coordinates looks at it.
            "spacing_mm": torch.full((2,), self.crops.spacing_mm),
            "labels": torch.tensor(int(self.crops.cohort.labels[index])),
        }


def _refuse_too_few_patients(labels: np.ndarray, patient_ids: np.ndarray, config: CohortConfig) -> None:
    for value in (0, 1):
        num_nodules, num_patients = int((labels == value).sum()), len(np.unique(patient_ids[labels == value]))
        if num_patients < config.num_folds:
            raise ValueError(
                f"A head needs nodules of both classes in at least data.num_folds={config.num_folds} patients each; "
                f"found {num_nodules} nodules of {num_patients} patients with label {value} by "
                f"{config.label_rule.name} in {config.folder} (the test split apart). Add labelled scans, lower "
                f"--data.num_folds, or take another --data.rule (A leaves indeterminate nodules out, B counts them as "
                f"malignant, C as benign)."
            )


def _refuse_a_part_without_a_class(labels: np.ndarray, patient_ids: np.ndarray, parts: np.ndarray) -> None:
    for part in PARTS:
        least = _MIN_TRAINING_PATIENTS if part == "train" else 1
        for value in (0, 1):
            patients = len(np.unique(patient_ids[(parts == part) & (labels == value)]))
            if patients < least:
                raise ValueError(
                    f"The {part} part needs label {value} in at least {least} patient(s); found {patients}. "
                    f"Try --data.test=fold, another --data.fold, or a set of more patients."
                )
