"""One evaluation, two sources: a built set of whole slices and a file of patches answer the same questions."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from dinox_hf.evaluation import suite
from dinox_hf.evaluation.backbones.subject import EvaluationSettings
from dinox_hf.evaluation.cohorts.nodule_sources import PatchSource, SetSource, open_source
from dinox_hf.evaluation.suite import evaluate
from tests.data.patches import RADIUS_MM, patch_arrays, write_patches

SETTINGS = EvaluationSettings(field_mm=24, num_seeds=1, num_random=1)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return write_patches(tmp_path_factory.mktemp("nodules") / "patches.npz")


def test_a_place_is_recognised_by_what_lies_there(patches, tiny_set, tmp_path):
    assert isinstance(open_source(patches), PatchSource)
    assert isinstance(open_source(patches.parent), PatchSource)
    assert isinstance(open_source(tiny_set), SetSource)
    for name in ("a.npz", "b.npz"):
        shutil.copy(patches, tmp_path / name)
    with pytest.raises(ValueError, match=r"Expected one npz .*found 2: a\.npz, b\.npz.*--data="):
        open_source(tmp_path)
    with pytest.raises(ValueError, match="found no file at"):
        open_source(tmp_path / "gone.npz")


def test_a_disc_lies_on_the_nodule_even_where_the_field_moved(patches):
    source = PatchSource.read(patches)
    shifts = np.tile([0.2, -0.1], (len(source.table), 1))
    fields_hu, discs = source.fields(24.0, 48, "windows", shifts)
    dense = np.array([ratings[0] == 5 for ratings in source.table.ratings["texture"]])
    rows, columns = np.nonzero(discs[dense][0])
    # The field moves down and to the left, so the nodule appears higher and further right.
    assert (rows.mean(), columns.mean()) == pytest.approx((23.5 - 0.2 * 48, 23.5 + 0.1 * 48), abs=0.6)
    assert fields_hu[dense][0, 0][rows.round().astype(int), columns.astype(int)].mean() > -500
    diameter_mm = 2 * np.sqrt(discs.sum(axis=(1, 2)) / np.pi) * 24 / 48
    inside = source.table.diameter_mm < 10
    assert diameter_mm[inside] == pytest.approx(source.table.diameter_mm[inside], abs=0.5)
    assert 2 * RADIUS_MM > 9


def test_neighbouring_slices_of_a_patch_are_the_patch_itself(patches):
    fields_hu, _ = PatchSource.read(patches).fields(24.0, 24, "neighbours")
    assert fields_hu.shape[1] == 3 and (fields_hu == fields_hu[:, :1]).all()


@pytest.mark.parametrize("kind", ["patches", "tiny_set"])
def test_patients_that_were_seen_are_left_out_everywhere(kind, request):
    source = open_source(request.getfixturevalue(kind))
    patients = np.unique(source.table.patient_ids)
    rest = source.without(patients[:-2])
    assert set(rest.table.patient_ids) == set(patients[-2:])
    assert len(rest.fields(24.0, 24, "windows")[0]) == len(rest.table) < len(source.table)
    assert sum(count["num_patients"] for count in rest.counts().values()) == 2
    slices = rest.sampled_slices(100, 24.0, 24, "windows")
    assert slices is None or set(slices[1]) == set(patients[-2:])
    with pytest.raises(ValueError, match=r"has not seen in .*; found none"):
        source.without(patients)


def test_a_run_is_evaluated_on_patches_and_the_report_says_what_they_cannot_give(tiny_run, patches):
    out = evaluate(str(tiny_run), str(patches.parent), None, SETTINGS)
    assert out == tiny_run / "evaluation" / f"on_{patches.parent.name}"
    report, text = json.loads((out / "report.json").read_text()), (out / "report.md").read_text()
    assert report["data"]["num_nodules"] == 80 and report["data"]["pretraining"]["num_patients_seen"] == 0
    texture = next(probe for probe in report["probes"] if probe["question"] == "texture")
    aucs = {(score["features"], score["pooling"]): score["auc"] for score in texture["scores"]}
    assert aucs["backbone", "mean"] > 0.95 > aucs["size only", "–"]
    assert "Slices: not measured" in text and "Not measured: attention against the readers' outlines" in text
    assert "a disc of the nodule's area" in text and "one patch of one slice each" in text
    assert {"probes", "attention", "patch_colours"} <= set(report["figures"])


def test_unseen_only_wants_to_know_whom_pretraining_saw(tiny_run, patches):
    model = str(tiny_run / "checkpoints" / "step_00000020" / "backbone")
    settings = EvaluationSettings(field_mm=24, num_random=1, unseen_only=True)
    with pytest.raises(ValueError, match=r"--unseen-only expects to know .*without its run\.yaml"):
        evaluate(model, str(patches), "out", settings)


def test_a_diverged_backbone_is_refused_by_name_and_count(tiny_run, patches, tmp_path):
    weights = tiny_run / "checkpoints" / "step_00000020" / "backbone" / "model.safetensors"
    tensors = load_file(weights)
    tensors["norm.bias"][0] = float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"finite features of .*run; found NaN or infinity in 80 of 80 images"):
        evaluate(str(tiny_run), str(patches), str(tmp_path / "out"), SETTINGS)
    assert not (tmp_path / "out" / "report.json").exists()


def test_one_class_and_few_patients_are_said_question_by_question(tiny_run, tmp_path):
    arrays = patch_arrays(num_patients=4)
    arrays["ratings_malignancy"][:] = 5
    data = write_patches(tmp_path / "few.npz", **arrays)
    out = evaluate(str(tiny_run), str(data), str(tmp_path / "out"), SETTINGS, parts=suite.PARTS[:1])
    probes = {probe["question"]: probe for probe in json.loads((out / "report.json").read_text())["probes"]}
    assert probes["malignancy A"]["not_measured"].startswith("label 1 has 8 nodules of 4 patients; at least 10")
    assert probes["texture"]["not_measured"].startswith("label 1 has 4 nodules of 2 patients")
    assert "- not measured: texture – label 1 has" in (out / "report.md").read_text()
