"""The script that trains a segmentation head, in this process."""

import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch

import training.finetune_segmentation as script
from dinox_hf.evaluation.cohorts.nodule_masks import MaskCohortConfig, deal_masks
from dinox_hf.evaluation.cohorts.nodules import read_nodules
from dinox_hf.evaluation.heads.mask_scores import disc, mask_table, no_mask_interval
from dinox_hf.hub.card_facts import metadata_of
from dinox_hf.hub.segmenter_card import write_segmenter_report
from dinox_hf.tasks.segmentation import load_segmenter
from tests.evaluation.conftest import write_run, write_set

TINY = ["--data.test=fold", "--data.num_folds=3", "--crops.size_px=32", "--training.precision=no"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    data = write_set(folder / "tiny", num_patients=24)
    return write_run(folder / "run", data), data


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    output = tmp_path_factory.mktemp("head") / "conv"
    options = ["--training.epochs=10", "--training.batch_size=4", "--training.head_lr=1e-2"]
    return script.main(script.read_arguments([*map(str, places), *TINY, f"--output={output}", *options]))


def test_every_case_of_the_test_part_has_a_row(finished):
    rows = list(csv.DictReader((finished / "cases.csv").open()))
    report = json.loads((finished / "report.json").read_text())
    assert len(rows) == report["num_cases"] == report["data"]["parts"]["test"]["nodules"] == 8
    assert report["data"]["parts"]["test"]["patients"] == 8
    means = {record["score"]: record["mean"] for record in report["test"]}
    assert np.mean([float(row["dice, head"]) for row in rows]) == pytest.approx(means["dice, head"])
    assert (finished / "overlays.png").read_bytes().startswith(b"\x89PNG")


def test_eight_nodules_carry_no_interval(finished):
    report = json.loads((finished / "report.json").read_text())
    assert "8 nodules of 8 patients; at least 10 nodules of 5" in report["no_interval"]
    assert {record["interval"] for record in report["test"]} == {None}
    rows = [{"patient_id": str(number % 6), "dice, head": number / 12} for number in range(12)]
    low, high = mask_table(rows)[0]["interval"]
    assert no_mask_interval(rows) is None and low < 5.5 / 12 < high


def test_a_moved_output_is_read_with_the_base_beside_it(finished, tmp_path):
    moved = shutil.copytree(finished.parent, tmp_path / "moved")
    assert 'base_model_name_or_path": "../base"' in (moved / "adapter" / "adapter_config.json").read_text()
    read, again = load_segmenter(finished).state_dict(), load_segmenter(moved / "adapter").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in read.items() if "original_module" not in name)
    shutil.rmtree(moved / "base")
    with pytest.raises((ValueError, RuntimeError), match="base"):
        load_segmenter(moved / "adapter")


def test_bright_discs_are_found_better_than_by_a_disc_drawn_without_looking(finished):
    means = {r["score"]: r["mean"] for r in json.loads((finished / "report.json").read_text())["test"]}
    assert set(means) == {f"{m}, {n}" for m in ("dice", "iou") for n in (script.HEAD, script.RANDOM, script.DISC)}
    assert means["dice, head"] > means[f"dice, {script.DISC}"] + 0.1


def test_a_head_that_changes_the_backbone_for_good_is_refused(places):
    with pytest.raises(ValueError, match="must be one of 'frozen', 'lora', 'dora'; found 'full'"):
        script.read_arguments([*map(str, places), "--adaptation.mode=full"])


def test_one_changed_field_leaves_the_defaults_of_its_group(places):
    config = script.read_arguments([*map(str, places), "--crops.size_px=32", "--adaptation.rank=4"])
    assert (config.crops.field_mm, config.crops.shift_mm, config.adaptation.mode) == (48.0, 8.0, "frozen")


def test_masks_are_dealt_by_patient_and_too_few_are_refused(places):
    nodules = read_nodules(places[1])
    twice = nodules + [dataclasses.replace(nodule, nodule_id=f"{nodule.nodule_id}b") for nodule in nodules]
    cohort = deal_masks(twice, MaskCohortConfig(test="fold", num_folds=4))
    homes = {(patient, part) for patient, part in zip(cohort.patient_ids, cohort.parts, strict=True)}
    assert len(homes) == 24
    with pytest.raises(ValueError, match=r"num_folds=5 patients; found 2"):
        deal_masks(nodules[:2], MaskCohortConfig(test="fold"))


def test_a_disc_has_its_area_and_lies_in_the_middle():
    drawn = disc((41, 41), area_px=200)
    assert abs(int(drawn.sum()) - 200) < 15
    assert np.array_equal(drawn, drawn[::-1, ::-1]) and drawn[20, 20]


def test_the_card_says_what_was_trained_and_shows_the_controls(finished):
    card, report = (finished / "README.md").read_text(), json.loads((finished / "report.json").read_text())
    metadata = metadata_of(card)
    assert (metadata["license"], metadata["pipeline_tag"]) == ("gpl-3.0", "image-segmentation")
    for record in report["test"]:
        assert f"| {record['score']} | {record['mean']:.3f} | none |" in card
    assert f"| Best epoch | {report['best']['epoch']} |" in card and "8 nodules of 8 patients" in card
    assert "$" not in card and str(finished.parents[1]) not in card


def test_the_snippet_of_the_card_runs(finished, monkeypatch):
    snippet = re.search(r"```python\n(.*?)```", (finished / "README.md").read_text(), re.DOTALL)[1]
    monkeypatch.chdir(finished)
    found = {}
    exec(snippet, found)
    assert found["outline"].shape == (1, 32, 32)


def test_a_head_that_is_still_trained_says_so(finished, tmp_path):
    report = json.loads((finished / "report.json").read_text())
    unfinished = report | {"status": "training", "test": None, "best": {"epoch": 2, "validation_dice": 0.5}}
    write_segmenter_report(tmp_path, unfinished)
    card = (tmp_path / "README.md").read_text()
    assert "saved while it was being trained" in card and "model-index" not in metadata_of(card)
