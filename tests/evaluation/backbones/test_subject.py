import numpy as np
import pytest

from dinox_hf.evaluation.backbones.subject import Subject


def subject(source: str, checkpoint: str | None, config: dict | None = None) -> Subject:
    return Subject(source, checkpoint, backbone=None, twins=[], start=None, config=config, records=[])


def test_only_the_set_of_the_run_is_reported_where_a_model_card_looks(tmp_path):
    run = subject(str(tmp_path / "run"), "step_1", {"data": {"folder": str(tmp_path / "set")}})
    assert run.out_folder(None) == run.out_folder(None, str(tmp_path / "set")) == tmp_path / "run" / "evaluation"
    other = run.out_folder(None, str(tmp_path / "other.npz"))
    assert other == tmp_path / "run" / "evaluation" / "on_other"
    assert run.out_folder(str(tmp_path / "out"), "anything") == tmp_path / "out"


def test_a_model_that_is_no_run_needs_a_place_for_its_report():
    with pytest.raises(ValueError, match=r"Expected --out .*random:vits16.*--out=FOLDER"):
        subject("random:vits16", None).out_folder(None)


def test_random_weights_saw_nobody_and_of_a_plain_model_it_is_not_known():
    patients = np.array(["P1", "P1", "P2"])
    assert subject("random:vits16", None).seen_record(patients)["num_patients_seen"] == 0
    assert subject("some/model", None).seen_record(patients) is None
