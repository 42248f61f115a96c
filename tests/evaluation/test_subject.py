from pathlib import Path

from dinox_hf.evaluation.subject import Subject


def said(data: dict | None, folder: Path) -> str:
    config = data and {"data": data}
    subject = Subject("run", "step_00000001", backbone=None, twins=[], start=None, config=config, records=[])
    return subject.seen_in_pretraining(folder)


def test_every_set_of_a_mixture_is_compared_with_the_evaluated_one(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    folders = [{"folder": str(first), "split": None}, {"folder": str(second), "split": "test"}]
    mixture = {"folder": str(first), "folders": folders, "split": "train"}
    assert "split 'test' of this very set" in said(mixture, second)
    assert "another set (first)" in said(mixture, second)
    assert said(mixture, tmp_path / "third").startswith("Pretraining used another set (first, second)")


def test_one_set_is_told_by_its_split_and_an_unknown_run_says_so(tmp_path):
    alone = said({"folder": str(tmp_path), "split": "train"}, tmp_path)
    assert "split 'train' of this very set" in alone and "another set" not in alone
    assert "not known" in said(None, tmp_path)
