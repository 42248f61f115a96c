"""Whom pretraining saw is looked up in the sets of a run and of the runs before it; what is gone is said."""

import numpy as np
import pytest
import yaml

from dinox_hf.evaluation.backbones.pretraining_patients import pretraining_patients, seen_text
from tests.evaluation.conftest import write_set


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    """Patients P00 to P02 in one set, P00 to P04 in the other."""
    folder = tmp_path_factory.mktemp("sets")
    return write_set(folder / "small", num_patients=3), write_set(folder / "large", num_patients=5)


def config_of(*folders, **lineage):
    parts = [{"folder": str(folder), "split": None} for folder in folders]
    return {"data": {"folder": "elsewhere", "folders": parts, "split": "train"}, "lineage": lineage}


def test_every_set_of_a_mixture_counts(two_sets, tmp_path):
    assert pretraining_patients(tmp_path, config_of(two_sets[0])).seen == {"P00", "P01", "P02"}
    both = pretraining_patients(tmp_path, config_of(*two_sets))
    assert len(both.seen) == 5 and both.unknown == ()
    record = both.record(np.array(["P04", "P04", "P77"]))
    assert (record["num_patients_seen"], record["num_nodules_seen"], record["num_patients"]) == (1, 2, 2)
    assert "saw images of 1 of these 2 patients, without labels (2 of 3 nodules" in seen_text(record, False)


def test_a_relative_path_is_found_above_the_run(two_sets, tmp_path):
    root = two_sets[0].parent
    assert pretraining_patients(root / "runs" / "first", config_of("small")).seen == {"P00", "P01", "P02"}


def test_the_runs_before_count_too(two_sets, tmp_path):
    first = tmp_path / "first"
    first.mkdir()
    (first / "run.yaml").write_text(yaml.safe_dump(config_of(two_sets[1])))
    found = pretraining_patients(tmp_path / "second", config_of(two_sets[0], origin={"from_run": str(first)}))
    assert len(found.seen) == 5 and found.unknown == ()


def test_what_is_gone_is_said_and_released_weights_are_not_taken_for_clean(tmp_path):
    found = pretraining_patients(tmp_path, config_of(tmp_path / "gone", origin={"weights": "some/model"}))
    text = seen_text(found.record(np.array(["P1"])), unseen_only=False)
    assert "Not checked: the set gone, which is no longer where it was." in text
    assert "Not checked: what the weights that it started from were trained on." in text
    assert "is not known" in seen_text(None, unseen_only=False)
