"""Every function that splits patients is known here, and meets a planted leak."""

import ast
import dataclasses
import re

import numpy as np
import pytest
from sklearn.model_selection import KFold

from dinox_hf.data import patch_set
from dinox_hf.data.leaks import check_set
from dinox_hf.data.sources.lidc_patches import HALVES, read_patches
from dinox_hf.evaluation.cohorts import labelled_nodules, nodule_masks, nodules, splits
from dinox_hf.evaluation.maps import localisation
from dinox_hf.evaluation.probes import few_labels, linear_probe, segmentation_probe
from dinox_hf.evaluation.study import patch_study
from tests.data.built_set import noisy_series, series_rows, write_built_set
from tests.data.patches import write_patches
from tests.test_architecture import PACKAGE, ROOT

WORDS = {"split", "splits", "fold", "folds", "half", "halves", "deal", "cohort", "holdout", "partition"}
SPLITTERS = re.compile(r"(KFold|ShuffleSplit|train_test_split|random_split)$")
# Which patients are on which side is decided here, and what makes sure that none is on both.
DECIDES = {
    "data/building/ingest_report.py:split_of": "check_set of the staged set: tests/data/test_leaks.py",
    "data/sources/lidc_patches.py:half_of": "check_no_leak in build_patch_set and patch_study.measure",
    "evaluation/cohorts/splits.py:patient_folds": "check_no_leak",
    "evaluation/probes/linear_probe.py:repeated_folds": "patient_folds",
    "evaluation/probes/few_labels.py:deal_labels": "check_no_leak",
    "evaluation/probes/few_labels.py:_inner_folds": "patient_folds",
    "evaluation/cohorts/labelled_nodules.py:deal_cohort": "check_no_leak",
    "evaluation/maps/localisation.py:halves": "check_no_leak",
    "evaluation/cohorts/nodule_masks.py:deal_masks": "check_no_leak",
    "evaluation/probes/segmentation_probe.py:patient_deal": "check_no_leak",
}
# These read, name or write sides that others decided, or mean something else by the word.
DECIDES_NOTHING = {
    "data/building/assembly.py:_stage_split",
    "data/slices.py:_splits_of",
    "data/streaming.py:_check_split",
    "data/sampling.py:deal",
    "data/sampling.py:_deal_epoch",
    "data/readers/dicom_frames.py:split_frames",
    "evaluation/probes/linear_probe.py:out_of_fold_scores",
    "evaluation/cohorts/nodules.py:splits_of",
    "evaluation/study/patch_probe.py:_answer_in_half",
    "evaluation/study/patch_probe.py:_out_of_fold",
    "evaluation/study/patch_report.py:_halves",
    "evaluation/pages/report.py:_split",
    "pretraining/schedules.py:_half_cosine",
    "tasks/adapter_files.py:_split_adapter_name",
}


def splitting_functions(source: str) -> list[str]:
    """Functions that are named after a split, or use a splitter of scikit-learn or torch."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            used = {getattr(inner, "attr", getattr(inner, "id", "")) for inner in ast.walk(node)}
            if set(node.name.split("_")) & WORDS or any(SPLITTERS.search(name) for name in used):
                found.append(node.name)
    return found


def test_every_function_that_splits_is_known():
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "training").rglob("*.py"), *(ROOT / "dataset_scripts").rglob("*.py")]
    found = {
        f"{path.relative_to(PACKAGE if PACKAGE in path.parents else ROOT).as_posix()}:{name}"
        for path in paths
        for name in splitting_functions(path.read_text())
    }
    assert found == DECIDES.keys() | DECIDES_NOTHING, (
        "a new function splits: end it with check_no_leak, plant a leak in it below, and name it in DECIDES; "
        "if it decides nothing, in DECIDES_NOTHING"
    )


def test_a_splitter_under_any_name_is_noticed():
    source = "def parts(rows):\n    return sklearn.model_selection.GroupShuffleSplit(1).split(rows)\n"
    assert splitting_functions(source) == ["parts"]


class ByCase:
    """Deals cases instead of patients, as a splitter without groups does."""

    def __init__(self, num_folds: int, **_) -> None:
        self.splitter = KFold(num_folds)

    def split(self, cases, labels, groups):
        return self.splitter.split(cases)


def test_folds_by_case_are_refused(monkeypatch):
    labels, patients = np.arange(60) % 2, np.arange(60) % 20
    splits.patient_folds(labels, patients)
    monkeypatch.setattr(splits, "StratifiedGroupKFold", ByCase)
    for deal in (splits.patient_folds, lambda *given: linear_probe.repeated_folds(*given, num_seeds=2)):
        with pytest.raises(ValueError, match="one side of these folds; found patient 0 in"):
            deal(labels, patients)


def test_labels_are_not_drawn_from_folds_that_share_a_patient():
    labels, patients = np.arange(60) % 2, np.arange(60) % 20
    with pytest.raises(ValueError, match="one side of these folds; found patient 0 in 0 and 1"):
        few_labels.deal_labels(labels, patients, np.arange(60) // 12)


@pytest.mark.parametrize(
    ("module", "deal"),
    [
        (segmentation_probe, segmentation_probe.patient_deal),
        (localisation, localisation.halves),
        (splits, lambda patients: splits.patient_folds(np.arange(60) % 2, patients)),
    ],
    ids=["segmentation_probe", "localisation", "splits"],
)
def test_what_was_dealt_goes_through_the_leak_test(monkeypatch, module, deal):
    asked = []
    monkeypatch.setattr(module, "check_no_leak", lambda sides, patient_ids, **_: asked.append((sides, patient_ids)))
    patients = np.arange(60) % 20
    dealt = deal(patients)
    np.testing.assert_array_equal(asked, [(dealt, patients)])


def test_halves_by_nodule_are_refused(monkeypatch, tmp_path):
    patches = read_patches(write_patches(tmp_path / "patches.npz"))
    sides = iter(list(HALVES) * len(patches))
    for module in (patch_set, patch_study):
        monkeypatch.setattr(module, "half_of", lambda patient_id: next(sides))
    with pytest.raises(ValueError, match=r"one side of the halves; found patient P-000 in half_a and half_b"):
        patch_set.build_patch_set(patches, tmp_path / "set")
    settings = patch_study.PatchProbeSettings(size_px=24)
    with pytest.raises(ValueError, match=r"one side of the halves; found patient P-000 in half_a and half_b"):
        patch_study.measure(patches, [], settings, tmp_path, 1)


def test_a_series_of_two_patients_that_fall_into_two_halves_is_refused(tmp_path):
    patches = read_patches(write_patches(tmp_path / "patches.npz"))
    series = np.where(np.arange(len(patches)) < 20, "1.2.0", patches.series_ids)
    with pytest.raises(ValueError, match=r"found series 1\.2\.0 in half_a and half_b"):
        patch_set.build_patch_set(dataclasses.replace(patches, series_ids=series), tmp_path / "set")


@pytest.mark.parametrize("deal", ["cohort", "masks"])
@pytest.mark.parametrize("leak", ["patient", "series"])
def test_heads_are_not_trained_on_a_set_that_leaks(nodules_of_24, deal, leak):
    first, second, *others = nodules_of_24
    own = {"patient_id": first.patient_id} if leak == "patient" else {"series_id": first.series_id}
    leaking = [first, dataclasses.replace(second, split="test", **own), *others]
    with pytest.raises(ValueError, match=rf"the set in .*found {leak} {next(iter(own.values()))} in test and train"):
        if deal == "cohort":
            labelled_nodules.deal_cohort(leaking, labelled_nodules.CohortConfig())
        else:
            nodule_masks.deal_masks(leaking, nodule_masks.MaskCohortConfig())


def test_heads_are_not_trained_on_parts_that_share_a_series(nodules_of_24):
    first, *others = nodules_of_24
    config = {"folder": "a set", "test": "fold"}
    for deal, settings in (
        (labelled_nodules.deal_cohort, labelled_nodules.CohortConfig(**config)),
        (nodule_masks.deal_masks, nodule_masks.MaskCohortConfig(**config)),
    ):
        one_series = [dataclasses.replace(nodule, series_id="S") for nodule in others]
        with pytest.raises(ValueError, match="training, validation and test; found series S in test and train"):
            deal([first, *one_series], settings)


@pytest.fixture(scope="module")
def nodules_of_24(tmp_path_factory):
    from tests.evaluation.conftest import write_set

    return nodules.read_nodules(write_set(tmp_path_factory.mktemp("set") / "of_24", num_patients=24))


def test_an_evaluation_does_not_open_a_set_that_leaks(tmp_path):
    rows = series_rows(noisy_series(0, (2, 16, 16)), "A")
    shards = {"train-00000-of-00001": rows, "test-00000-of-00001": [row | {"series_id": "2"} for row in rows]}
    folder = write_built_set(tmp_path / "set", shards)
    with pytest.raises(ValueError, match="found patient A in test and train"):
        nodules.ScanSet(folder)
    with pytest.raises(ValueError, match="found patient A in test and train"):
        check_set(folder)
