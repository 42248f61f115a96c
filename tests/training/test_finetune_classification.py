"""The script that trains a head, in this process: its files, its repetition, its interruption, and its mistakes."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

import training.finetune_classification as script
from dinox_hf.evaluation.heads.head_config import FinetuneConfig
from dinox_hf.evaluation.heads.head_scores import result_lines
from dinox_hf.hub.card_facts import metadata_of
from dinox_hf.hub.head_folder import can_serve_as_base
from dinox_hf.pretraining.config_file import load_config
from tests.evaluation.conftest import write_run, write_set

TINY = [
    "--data.test=fold",
    "--data.num_folds=3",
    "--crops.size_px=24",
    "--training.epochs=3",
    "--training.precision=no",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    data = write_set(folder / "tiny", num_patients=24)
    return write_run(folder / "run", data), data


def tiny(places, output, *options) -> FinetuneConfig:
    return script.read_arguments([*map(str, places), *TINY, f"--output={output}", *options])


@pytest.fixture
def unchecked(monkeypatch):
    """Without the process in which dinox_hf cannot be imported, which takes seconds to start."""
    monkeypatch.setattr(script, "check_in_clean_process", lambda *_: [])


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    """A LoRA head with its check in a clean process."""
    return script.main(tiny(places, tmp_path_factory.mktemp("head") / "lora"))


def test_a_stranger_gets_the_logits_in_every_way_that_the_card_shows(finished):
    answers = json.loads((finished / "report.json").read_text())["loaded_elsewhere"]
    assert [answer["way"] for answer in answers] == [
        "AutoModelForImageClassification, trust_remote_code",
        "PeftModel on its base",
        "merged into its base",
    ]
    assert [answer["largest_difference"] <= 1e-5 for answer in answers] == [True] * 3


def test_an_adapter_is_two_files_without_pickle_a_card_and_a_report(finished):
    names = {path.name for path in finished.iterdir() if not path.is_symlink()}
    links = {path.name: path.readlink() for path in finished.iterdir() if path.is_symlink()}
    assert links == {path.name: Path("../base") / path.name for path in (finished.parent / "base").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md", "report.json"}
    assert {name.split(".")[2] for name in load_file(finished / "adapter_model.safetensors")} >= {
        "classifier",
        "model",
    }
    assert yaml.safe_load((finished.parent / "finetune.yaml").read_text())["data"]["rule"] == "A"


def test_the_report_names_the_parts_and_scores_the_head_beside_its_controls(finished):
    report = json.loads((finished / "report.json").read_text())
    assert report["status"] == "finished"
    assert [part["patients"] for part in report["data"]["parts"].values()] == [8, 8, 8]
    scores = {score["features"]: score["auc"] for score in report["test"][0]["scores"]}
    assert set(scores) == {"head", "frozen linear probe", "random weights, linear probe", "size only"}
    # Dense against faint nodules: raw brightness tells them apart, whatever the weights.
    assert scores["frozen linear probe"] == 1.0
    card = (finished / "README.md").read_text()
    assert f"| {scores['size only']:.3f} |" in card and "Research use only" in card
    metadata = metadata_of(card)
    assert metadata["library_name"] == "peft" and "base_model" not in metadata  # which the Hub reads as an id


def test_so_few_patients_carry_no_interval_anywhere(finished):
    report = json.loads((finished / "report.json").read_text())
    scores = report["test"][0]["scores"]
    assert {score["interval"] for score in scores} == {score.get("head_gain_interval") for score in scores} == {None}
    told = "label 1 has 4 nodules of 4 patients; at least 10 nodules of 5 patients are needed"
    card, console = (finished / "README.md").read_text(), result_lines(report)
    assert told in card and told in console
    assert "(0." not in card and " to " not in console


def test_a_moved_output_loads_as_its_card_shows_and_names_no_path_of_the_machine(finished, tmp_path, monkeypatch):
    moved = shutil.copytree(finished.parent, tmp_path / "moved", symlinks=True)
    pixels = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        monkeypatch.chdir(finished)
        expected = AutoModelForImageClassification.from_pretrained(".", trust_remote_code=True).eval()(pixels).logits
        monkeypatch.chdir(tmp_path)  # from anywhere, by its path
        far = AutoModelForImageClassification.from_pretrained(finished, trust_remote_code=True).eval()(pixels).logits
        base = AutoModelForImageClassification.from_pretrained(finished.parent / "base", trust_remote_code=True)
        assert torch.equal(far, expected) and not torch.allclose(base.eval()(pixels).logits, expected)
        monkeypatch.chdir(moved / "adapter")
        # The adapter must find the base that moved with it: another one would answer otherwise.
        weights = load_file("../base/model.safetensors")
        save_file({name: 0 * value for name, value in weights.items()}, "../base/model.safetensors", {"format": "pt"})
        other = AutoModelForImageClassification.from_pretrained(".", trust_remote_code=True).eval()(pixels).logits
    assert not torch.allclose(other, expected)
    assert json.loads((moved / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "../base"
    texts = [path for path in moved.rglob("*") if path.suffix in (".md", ".json") or path.name == "report.json"]
    assert len(texts) >= 5 and not [path for path in texts if str(finished.parents[2]) in path.read_text()]


def test_a_finished_head_is_not_trained_over(finished, places):
    with pytest.raises(ValueError, match="test part has been looked at"):
        script.main(tiny(places, finished.parent))


def test_a_foreign_folder_is_left_alone(places, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="found something else there, which is left alone"):
        script.main(tiny(places, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_same_command_gives_the_same_head(finished, places, tmp_path, unchecked):
    again = script.main(tiny(places, tmp_path / "again"))
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (finished, again))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_interrupted_training_keeps_its_best_head_and_can_be_repeated(places, tmp_path, monkeypatch, unchecked):
    step, config = script.training_step, tiny(places, tmp_path / "head")
    steps = []

    def interrupted(*arguments):
        steps.append(1)
        if len(steps) == 2:  # one batch an epoch: the first epoch has been saved
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments)

    monkeypatch.setattr(script, "training_step", interrupted)
    head = script.main(config)
    report = json.loads((head / "report.json").read_text())
    assert (report["status"], report["best_epoch"], report["test"]) == ("interrupted", 1, None)
    assert "training was interrupted" in (head / "README.md").read_text()
    monkeypatch.setattr(script, "training_step", step)
    assert json.loads((script.main(config) / "report.json").read_text())["status"] == "finished"


def test_a_whole_model_loads_with_code_of_its_own(places, tmp_path, unchecked):
    options = ("--adaptation.mode=full", "--training.lr=1e-3", "--head.kind=attention_3d", "--training.epochs=1")
    folder = script.main(tiny(places, tmp_path / "full", *options))
    assert folder.name == "model" and not (folder.parent / "base").exists()
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    assert model(torch.zeros(1, 5, 3, 24, 24)).logits.shape == (1, 2)


def test_a_base_is_named_only_if_it_would_answer_the_same(finished, tmp_path):
    base = finished.parent / "base"
    config = AutoModelForImageClassification.from_pretrained(base, trust_remote_code=True).config
    assert can_serve_as_base(base, config)
    assert not can_serve_as_base(base, type(config)(**(config.to_dict() | {"pooling": "max"})))
    assert not can_serve_as_base(tmp_path, config)


def test_features_that_are_no_numbers_stop_before_anything_is_trained(places, tmp_path, monkeypatch):
    build = script.build_backbone

    def broken(*arguments):
        backbone = build(*arguments)
        with torch.no_grad():
            backbone.norm.weight[0] = torch.nan
        return backbone

    monkeypatch.setattr(script, "build_backbone", broken)
    with pytest.raises(ValueError, match="A head needs finite features; found NaN"):
        script.main(tiny(places, tmp_path / "head"))
    assert not (tmp_path / "head" / "adapter").exists()


def test_names_are_two_and_unknown_fields_are_refused(places):
    with pytest.raises(ValueError, match="Expected BACKBONE DATASET"):
        script.read_arguments(["only-one"])
    with pytest.raises(ValueError, match=r"Did you mean `adaptation\.rank`"):
        script.read_arguments([*map(str, places), "--adaptation.ranks=4"])
    assert load_config(FinetuneConfig).adaptation.mode == "lora"
