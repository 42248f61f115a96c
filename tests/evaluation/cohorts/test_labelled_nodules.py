import dataclasses

import numpy as np
import pytest
import torch

from dinox_hf.evaluation.cohorts.labelled_nodules import (
    CohortConfig,
    CropConfig,
    NoduleCrops,
    NoduleEpoch,
    deal_cohort,
)
from dinox_hf.evaluation.cohorts.nodules import ScanSet, cut_nodules, read_nodules
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from dinox_hf.tasks.classification import HeadConfig

SIZE = {"height": 24, "width": 24}


def config(**fields) -> CohortConfig:
    return CohortConfig(folder="a set", test="fold", **fields)


@pytest.fixture(scope="module")
def nodules(tiny_set):
    return read_nodules(tiny_set)


@pytest.fixture(scope="module")
def crops(tiny_set, nodules):
    cohort = deal_cohort(nodules, config())
    return NoduleCrops(ScanSet(tiny_set), cohort, Dinov3CTImageProcessor(size=SIZE), CropConfig(), HeadConfig())


def test_no_patient_is_in_two_parts_and_every_part_has_both_classes(nodules):
    # Two nodules a patient, so that dealing nodules instead of patients would tear some apart.
    twice = nodules + [dataclasses.replace(nodule, nodule_id=f"{nodule.nodule_id}b") for nodule in nodules]
    cohort = deal_cohort(twice, config())
    homes = {}
    for patient, part in zip(cohort.patient_ids, cohort.parts, strict=True):
        homes.setdefault(patient, set()).add(str(part))
    assert len(homes) == 24 and all(len(parts) == 1 for parts in homes.values())
    assert all(0 < count["label_1"] < count["nodules"] for count in cohort.counts().values())


def test_every_patient_is_tested_once_over_the_folds(nodules):
    tested = [set(deal_cohort(nodules, config(fold=fold)).indices("test").tolist()) for fold in range(5)]
    assert sorted(index for rows in tested for index in rows) == list(range(24))


def test_the_sets_own_test_split_is_kept_for_the_test(nodules):
    split = [dataclasses.replace(n, split="test" if int(n.patient_id[1:]) >= 18 else "train") for n in nodules]
    cohort = deal_cohort(split, CohortConfig(num_folds=3))
    assert set(cohort.patient_ids[cohort.indices("test")]) == {f"P{number}" for number in range(18, 24)}
    assert all(cohort.nodules[index].split == "train" for index in cohort.indices("validation"))


def test_a_set_without_a_test_split_says_how_to_deal_one(nodules):
    with pytest.raises(ValueError, match=r"found train\. Deal all patients with --data\.test=fold"):
        deal_cohort(nodules, CohortConfig())


def test_one_class_alone_is_refused_with_counts_and_other_rules(nodules):
    benign = [nodule for nodule in nodules if nodule.ratings["malignancy"][0] < 3]
    with pytest.raises(ValueError, match=r"found 0 nodules of 0 patients with label 1 by malignancy A.*--data\.rule"):
        deal_cohort(benign, config())


def test_fewer_patients_than_folds_are_refused(nodules):
    with pytest.raises(ValueError, match=r"num_folds=5 patients each; found 4 nodules of 4 patients"):
        deal_cohort(nodules[:8], config())


def test_a_patient_in_two_splits_is_refused(nodules):
    torn = [*nodules, dataclasses.replace(nodules[0], split="test")]
    with pytest.raises(ValueError, match="P00"):
        deal_cohort(torn, config())


def test_rule_b_counts_indeterminate_nodules_as_malignant(nodules):
    indeterminate = dataclasses.replace(nodules[0], ratings={**nodules[0].ratings, "malignancy": [3, 3, 3]})
    for rule, expected in (("A", None), ("B", 1), ("C", 0)):
        cohort = deal_cohort([indeterminate, *nodules[1:]], config(rule=rule))
        found = dict(zip((n.nodule_id for n in cohort.nodules), cohort.labels, strict=True))
        assert found.get("S00/1") == expected


def test_without_variation_pixels_are_those_of_the_evaluation(crops, tiny_set):
    fields_hu, _ = cut_nodules(ScanSet(tiny_set), crops.cohort.nodules[3:4], 32.0, 24, "windows")
    expected = Dinov3CTImageProcessor(size=SIZE)(fields_hu[0], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(crops.pixel_values(3), expected)


def test_slices_of_a_lesion_lie_around_its_middle_one(tiny_set, nodules):
    # Slices of the set lie 2 mm apart: 2.5 mm rounds to one slice, and beyond the ends the last one is repeated.
    cohort, processor = deal_cohort(nodules, config()), Dinov3CTImageProcessor(size=SIZE)
    head = HeadConfig(kind="attention_3d", num_slices=5, slice_step_mm=2.5)
    stack = NoduleCrops(ScanSet(tiny_set), cohort, processor, CropConfig(), head).pixel_values(0)
    single = NoduleCrops(ScanSet(tiny_set), cohort, processor, CropConfig(), HeadConfig()).pixel_values(0)
    assert stack.shape == (5, 3, 24, 24)
    assert torch.equal(stack[2], single)
    assert torch.equal(stack[0], stack[1]) and torch.equal(stack[3], stack[4])
    assert not torch.equal(stack[1], stack[2])


def test_variation_comes_from_seed_epoch_and_nodule_alone(crops):
    first, again = (NoduleEpoch(crops, np.array([5, 2]), seed=1, epoch=3) for _ in range(2))
    assert torch.equal(first[1]["pixel_values"], again[1]["pixel_values"])
    assert torch.equal(first[1]["pixel_values"], NoduleEpoch(crops, np.array([2]), seed=1, epoch=3)[0]["pixel_values"])
    for seed, epoch in ((1, 4), (2, 3), (1, None)):
        other = NoduleEpoch(crops, np.array([2]), seed=seed, epoch=epoch)[0]["pixel_values"]
        assert not torch.equal(first[1]["pixel_values"], other)


def test_a_flip_is_the_only_variation_when_the_others_are_off(tiny_set, crops):
    still = CropConfig(shift_mm=0, level_jitter_hu=0, width_jitter=0)
    varied = NoduleCrops(crops.scans, crops.cohort, crops.processor, still, HeadConfig())
    plain = crops.pixel_values(0)
    mirrored = [plain.flip(axes) for axes in ([], [-1], [-2], [-1, -2])]
    seen = set()
    for seed in range(20):
        pixels = varied.pixel_values(0, varied.draw(np.random.default_rng(seed)))
        matches = [torch.equal(pixels, candidate) for candidate in mirrored]
        assert sum(matches) == 1
        seen.add(matches.index(True))
    assert seen == {0, 1, 2, 3}
