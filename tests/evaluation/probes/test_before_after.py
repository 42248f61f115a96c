"""A run that started from weights is compared with them, or the report says in one line why not."""

import json
import shutil

import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError

from dinox_hf.evaluation import suite
from dinox_hf.evaluation.backbones.starting_weights import starting_weights
from dinox_hf.evaluation.backbones.subject import EvaluationSettings, load_subject
from dinox_hf.evaluation.probes.before_after import before_after_line, before_after_record
from dinox_hf.evaluation.suite import evaluate
from dinox_hf.model import weight_files
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.model.weight_files import sha256_of

SETTINGS = EvaluationSettings(field_mm=24, num_seeds=2, num_random=2, max_slices=30)


def record_origin(run, origin):
    config = yaml.safe_load((run / "run.yaml").read_text())
    (run / "run.yaml").write_text(yaml.safe_dump(config | {"lineage": {"origin": origin}}))


@pytest.fixture
def started_run(tiny_run, tmp_path):
    """A run that records as its origin a folder of weights that hardly see the pixels; returns both."""
    weights = tmp_path / "released"
    config = Dinov3CTConfig.from_pretrained(tiny_run / "checkpoints" / "step_00000020" / "backbone")
    torch.manual_seed(1)
    model = Dinov3CTModel(config)
    torch.nn.init.zeros_(model.embeddings.patch_embeddings.weight)
    model.save_pretrained(weights)
    digest = sha256_of([weights / "model.safetensors"])
    record_origin(tiny_run, {"weights": str(weights), "revision": None, "sha256": digest})
    return tiny_run, weights


def test_every_probe_has_before_after_and_difference(started_run):
    run, weights = started_run
    out = evaluate(str(run), None, None, SETTINGS)
    report, text = json.loads((out / "report.json").read_text()), (out / "report.md").read_text()
    texture = next(probe for probe in report["probes"] if probe["question"] == "texture")
    aucs = {(score["features"], score["pooling"]): score["auc"] for score in texture["scores"]}
    gain = next(g for g in texture["gains"] if g["over"] == "starting weights" and g["pooling"] == "cls")
    assert gain["gain"] == aucs["backbone", "cls"] - aucs["starting weights", "cls"] > 0.3
    assert 0 < gain["interval"][0] <= gain["gain"] <= gain["interval"][1]
    # Texture is the only attribute with enough nodules, so its gain is the mean.
    assert [g["gain"] for g in report["before_after"]["gains"] if g["pooling"] == "cls"] == [gain["gain"]]
    before, after = aucs["starting weights", "cls"], aucs["backbone", "cls"]
    assert f"| texture | cls | {before:.3f} | {after:.3f} | {gain['gain']:+.3f} |" in text
    assert "AUC gained over the starting weights (released), mean over 1 attributes" in text and str(
        weights.parent
    ) not in json.dumps(report)
    assert set(report["collapse"]["slices"]) == {"backbone", "starting weights", "random weights"}


def test_weights_compared_with_themselves_gain_nothing(tiny_run):
    checkpoint = tiny_run / "checkpoints" / "step_00000020"
    record_origin(tiny_run, {"weights": str(checkpoint), "revision": None})
    out = evaluate(str(tiny_run), None, None, SETTINGS, parts=suite.PARTS[:3])
    report = json.loads((out / "report.json").read_text())
    gains = [g for p in report["probes"] for g in p["gains"] if g["over"] == "starting weights"]
    assert len(gains) > 4 and all(g["gain"] == 0 and g["interval"] == [0, 0] and g["always_zero"] for g in gains)
    text = (tiny_run / "evaluation" / "report.md").read_text()
    assert "| +0.000 | none: the same AUC in every resample |" in text and "+0.000 to +0.000" not in text
    assert report["before_after"]["name"] == f"{tiny_run.name} after 20 steps"


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        ({"interval": [0.0, 0.0], "always_zero": True}, "none: the same AUC in every resample"),
        # 2 % of the resamples may still differ.
        ({"interval": [0.0, 0.0], "always_zero": False}, "within ±0.0005"),
        ({"interval": [-0.0004, 0.0002], "always_zero": False}, "within ±0.0005"),
        ({"interval": [0.0, 0.001], "always_zero": False}, "+0.000 to +0.001"),
    ],
)
def test_an_interval_of_zeros_is_not_shown_as_a_certainty(gain, said):
    record = {"name": "a", "missing": None, "lora_rank": None}
    line = before_after_line(record | {"gains": [gain | {"pooling": "cls", "gain": 0.0, "attributes": ["margin"]}]})
    assert line.endswith(f": cls +0.000 ({said}).")


def test_adapters_are_told_where_before_and_after_are_compared(started_run):
    run, _ = started_run
    start = load_subject(str(run), num_random=0).start
    told = [before_after_line(before_after_record(start, [], {"lora": lora})) for lora in ({"rank": 4}, None)]
    assert "LoRA of rank 4 was trained" in told[0] and "LoRA" not in told[1]


def test_an_origin_that_is_a_run_is_compared_at_its_checkpoint(tiny_run, tmp_path):
    before = shutil.copytree(tiny_run, tmp_path / "pretrain")
    record_origin(tiny_run, {"from_run": str(before), "step": 20, "take": "teacher"})
    subject = load_subject(str(tiny_run), num_random=0)
    assert subject.start.name == "pretrain after 20 steps" and subject.start.backbone.digest == subject.backbone.digest
    shutil.rmtree(before / "checkpoints" / "step_00000020")
    assert load_subject(str(tiny_run), num_random=0).start.missing == "it is no longer where it was"


def test_weights_that_are_gone_cost_one_line_and_nothing_else(started_run):
    run, weights = started_run
    shutil.rmtree(weights)
    out = evaluate(str(run), None, None, SETTINGS, parts=suite.PARTS[:3])
    report, text = json.loads((out / "report.json").read_text()), (out / "report.md").read_text()
    line = "Before and after: not measured. The run started from released; it is no longer where it was."
    assert text.count(line) == 2 and "starting weights" not in text  # in the verdict and in its own part
    assert report["before_after"]["gains"] == [] and report["cls_gain"]["attributes"] == ["texture"]


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ({"weights": "facebook/dinov3-x", "revision": "0123"}, "it could not be read from the Hub"),
        ({"weights": "outputs/released", "revision": None}, "it is no longer where it was"),
    ],
)
def test_other_reasons_are_told(origin, reason, tiny_run, monkeypatch):
    def offline(*_arguments, **_how):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(weight_files, "snapshot_download", offline)
    record_origin(tiny_run, origin)
    start = load_subject(str(tiny_run), num_random=0).start
    assert start.backbone is None and start.missing == reason
    assert start.name == ("facebook/dinov3-x" if origin["revision"] else "released")


def test_other_files_under_the_same_name_are_not_compared(started_run):
    run, weights = started_run
    config = Dinov3CTConfig.from_pretrained(weights)
    Dinov3CTModel(config).save_pretrained(weights)
    assert load_subject(str(run), num_random=0).start.missing == "the files there are not those that it started from"


def test_a_run_from_a_random_draw_has_no_such_part(tiny_run):
    subject = load_subject(str(tiny_run), num_random=0)
    assert subject.start is None and starting_weights(subject.backbone, None) is None
