import json
import re

import numpy as np
import pytest

from dinox_hf.evaluation.backbones import features
from dinox_hf.evaluation.backbones.subject import EvaluationSettings, load_subject
from dinox_hf.evaluation.pages import figure_style
from dinox_hf.evaluation.parts import bench
from dinox_hf.evaluation.probes.shuffled_control import shuffled_line
from dinox_hf.evaluation.suite import evaluate
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel

from .conftest import write_set

SETTINGS = EvaluationSettings(field_mm=24, num_seeds=2, num_random=2, max_slices=30)


def test_a_run_is_evaluated_from_its_folder_alone_and_the_same_again(tiny_run, monkeypatch):
    monkeypatch.setattr(figure_style, "DPI", 40)  # as many pixels as the test needs
    out = evaluate(str(tiny_run), None, None, SETTINGS)
    assert out == tiny_run / "evaluation"
    first = (out / "report.json").read_text()
    report = json.loads(first)
    for path in report["figures"].values():
        assert (out / path).stat().st_size > 2_000
        assert f"]({path})" in (out / "report.md").read_text()
    drawn = {"attention", "maps", "localisation", "patch_colours", "training_curves", "probes"}
    assert set(report["figures"]) == drawn
    page = (out / "report.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == len(drawn) and "http" not in page
    assert str(tiny_run.parent) not in first
    assert [criterion["reached"] for criterion in report["learning"]["criteria"]][:2] == [False, True]

    by_question = {probe["question"]: probe for probe in report["probes"]}
    texture = {(s["features"], s["pooling"]): s["auc"] for s in by_question["texture"]["scores"]}
    # Dense and faint nodules differ by 550 HU: any pooling of any network must see that, size must not.
    assert texture["backbone", "mean"] > 0.95
    assert 0.2 < texture["size only", "–"] < 0.8
    assert 0.2 < texture["backbone, shuffled labels", "cls"] < 0.8
    assert by_question["margin"]["not_measured"] == (
        "label 1 has 0 nodules of 0 patients; at least 10 nodules of 5 patients are needed"
    )
    assert report["cls_gain"]["attributes"] == ["texture"]
    # Dense against lung: tokens must outline what any pixel shows, at both resolutions.
    assert [field["name"] for field in report["segmentation"]["fields"]] == ["native resolution", "doubled resolution"]
    assert report["segmentation"]["fields"][1]["scores"]["backbone"]["auprc"] > 0.5
    assert [field["size_px"] for field in report["attention"]] == [24, 48, 48]
    shuffled = shuffled_line(report["probes"])
    text = (out / "report.md").read_text()
    assert f"- {shuffled}" in text.split("## ")[1] if shuffled else "Shuffled labels leave" not in text

    monkeypatch.setattr(bench, "pooled_features", None)  # the second time every feature comes from the cache
    evaluate(str(tiny_run), None, None, SETTINGS)
    assert (out / "report.json").read_text() == first


def test_one_patient_is_reported_without_probes_and_without_a_crash(tiny_run, tmp_path):
    data = write_set(tmp_path / "one", num_patients=1)
    out = evaluate(str(tiny_run), str(data), str(tmp_path / "out"), SETTINGS)
    text = (out / "report.md").read_text()
    assert "CLS probe gain over random weights: not measured" in text
    assert len(re.findall(r"not measured: [a-z]+", text)) >= 12
    assert "best head |" not in text
    assert "**So few nodules or patients make no interval:** 1 nodules of 1 patients; at least 10" in text
    assert (
        "Outlines from patch tokens: not measured – A segmentation probe needs nodules of at least 5 patients" in text
    )
    assert "one patient" in text


def test_a_random_twin_of_the_same_seed_is_the_same_network(tiny_run):
    backbone = load_subject(str(tiny_run), num_random=0).backbone
    assert features.random_twin(backbone, 0).digest == features.random_twin(backbone, 0).digest
    assert features.random_twin(backbone, 0).digest != features.random_twin(backbone, 1).digest


def test_poolings_agree_with_the_tokens(tiny_run):
    backbone = load_subject(str(tiny_run), num_random=0).backbone
    fields_hu = np.random.default_rng(0).normal(-700, 200, (2, 1, 24, 24)).astype(np.float32)
    spacing_mm = np.ones((2, 2))
    pooled = features.pooled_features(backbone, fields_hu, spacing_mm)
    patches = features.patch_tokens(backbone, fields_hu, spacing_mm)
    np.testing.assert_allclose(pooled["mean"], patches.mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(pooled["max"], patches.max(axis=(1, 2)), atol=1e-5)
    np.testing.assert_array_equal(pooled["cls+mean"], np.concatenate([pooled["cls"], pooled["mean"]], axis=1))
    assert features.attention_maps(backbone, fields_hu, spacing_mm).shape == (2, 2, 3, 3)


def test_a_metric_backbone_is_told_the_millimetres_of_its_fields(tiny_run):
    stock = load_subject(str(tiny_run), num_random=0).backbone
    overrides = {"rope_coordinates": "metric", "rope_extent_mm": 24.0}
    model = Dinov3CTModel(Dinov3CTConfig.from_dict(stock.model.config.to_dict() | overrides)).eval()
    model.load_state_dict({name: 10 * weight for name, weight in stock.model.state_dict().items()})
    stock.model.load_state_dict(model.state_dict())
    metric = features.Backbone(model, stock.processor, "metric")
    fields_hu = np.random.default_rng(0).normal(-700, 200, (2, 1, 24, 24)).astype(np.float32)
    canonical, half = np.ones((2, 2)), np.full((2, 2), 0.5)
    for look in (features.patch_tokens, features.attention_maps, lambda *a: features.pooled_features(*a)["mean"]):
        expected = look(stock, fields_hu, half)
        np.testing.assert_allclose(look(metric, fields_hu, canonical), expected, atol=1e-4)
        assert np.abs(look(metric, fields_hu, half) - expected).max() > 1e-3


def test_a_size_that_is_no_multiple_of_the_patch_names_the_nearest(tiny_run):
    with pytest.raises(ValueError, match=r"multiple of the patch size 8; found 30.*Take 32"):
        evaluate(str(tiny_run), None, None, EvaluationSettings(size_px=30, num_random=1))


def test_a_plain_model_needs_data_and_out(tiny_run):
    model = str(tiny_run / "checkpoints" / "step_00000020" / "backbone")
    with pytest.raises(ValueError, match="--data; found neither"):
        evaluate(model, None, None, SETTINGS)


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found nothing that loads at .*nowhere"):
        evaluate(str(tmp_path / "nowhere"), None, None, SETTINGS)


def test_a_folder_that_is_neither_run_nor_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json; found neither"):
        evaluate(str(tmp_path), None, None, SETTINGS)
