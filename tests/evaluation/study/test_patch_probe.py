import json

import numpy as np
import pytest
import torch

import dinox_hf.evaluation.study.patch_study as patch_study
from dinox_hf.data.sources.lidc_patches import HALVES, half_of, read_patches
from dinox_hf.evaluation.cohorts.nodule_sources import cut_patches
from dinox_hf.evaluation.pages.figures import draw_patch_probes
from dinox_hf.evaluation.study.patch_probe import (
    GRAM,
    PIXELS,
    PLAIN,
    POOLINGS,
    RANDOM,
    SHUFFLED,
    SIZE,
    Half,
    PatchProbeSettings,
    answer_all,
    group_scores,
    groups,
    questions,
)
from dinox_hf.evaluation.study.patch_report import answers_record, markdown, verdict
from tests.data.patches import RADIUS_MM, write_patches
from tests.evaluation.conftest import write_run

SETTINGS = PatchProbeSettings(size_px=24, num_random=2, num_fold_seeds=2, num_resamples=50)


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return read_patches(write_patches(tmp_path_factory.mktemp("patches") / "patches.npz"))


def a_half(patches, name: str) -> Half:
    """Networks of two seeds that know the density of a nodule, and two random ones that know nothing."""
    rows = np.array([index for index in range(len(patches)) if half_of(patches.patient_ids[index]) == name])
    is_dense = np.array([patches.ratings["texture"][row][0] == 5 for row in rows])
    fields_hu = cut_patches(patches, SETTINGS.field_mm, SETTINGS.size_px)[rows]

    def network(seed: int, knows: float) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {pooling: rng.normal(size=(len(rows), 4)) + knows * is_dense[:, None] for pooling in POOLINGS}

    return Half(
        name=name,
        patient_ids=patches.patient_ids[rows],
        diameter_mm=patches.diameter_mm[rows],
        ratings={key: [values[row] for row in rows] for key, values in patches.ratings.items()},
        networks={
            PLAIN: [network(0, 4.0), network(1, 4.0)],
            GRAM: [network(2, 4.0), network(3, 4.0)],
            RANDOM: [network(4, 0.0), network(5, 0.0)],
        },
        pixels=fields_hu.reshape(len(rows), -1),
        key={"half": name},
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def answers(patches, cache):
    return answer_all([a_half(patches, half) for half in HALVES], SETTINGS, cache, num_threads=1)


def test_the_questions_are_four_of_all_sizes_and_the_same_within_6_to_14_mm():
    names = ["malignancy A", "texture", "calcification", "margin"]
    assert [question.name for question in questions()] == names + [f"{name}, 6–14 mm" for name in names]
    assert [len(of) for of in groups().values()] == [4, 4, 5]


def test_a_field_shows_the_nodule_in_its_middle_at_its_size_in_millimetres(patches):
    fields_hu = cut_patches(patches, 32.0, 64)
    assert fields_hu.shape == (80, 1, 64, 64)
    inside = fields_hu[4, 0] > -400  # a dense nodule
    rows, columns = np.nonzero(inside)
    assert (rows.mean(), columns.mean()) == pytest.approx((31.5, 31.5), abs=0.5)
    assert np.sqrt(inside.sum() / np.pi) * 32 / 64 == pytest.approx(RADIUS_MM, abs=0.4)
    assert fields_hu.min() >= -1024  # padding became air


def test_features_that_know_the_answer_score_and_the_others_do_not(answers):
    for answer in answers:
        assert answer.not_measured is None
        assert answer.scores[PLAIN, "cls"].auc > 0.95
        assert answer.scores[PIXELS, "–"].auc > 0.9
        assert abs(answer.scores[RANDOM, "cls"].auc - 0.5) < 0.3
        assert abs(answer.scores[SIZE, "–"].auc - 0.5) < 0.3
        assert answer.scores[SHUFFLED, "cls"].auc < 0.75


def test_a_score_is_the_mean_over_halves_and_has_one_value_a_network(answers, patches, cache):
    alone = [answer_all([a_half(patches, half)], SETTINGS, cache, 1)[0].scores[RANDOM, "cls"] for half in HALVES]
    both = answers[0].scores[RANDOM, "cls"]
    assert both.auc == pytest.approx(np.mean([score.auc for score in alone]))
    assert both.auc_by_seed == pytest.approx(np.mean([score.auc_by_seed for score in alone], axis=0))
    assert len(both.auc_by_seed) == 2 and both.auc == pytest.approx(np.mean(both.auc_by_seed))


def test_an_average_is_the_mean_of_its_questions(answers):
    averages = group_scores(answers)
    expected = np.mean([answer.scores[RANDOM, "max"].auc for answer in answers[:4]])
    assert averages["mean of four"][RANDOM, "max"].auc == pytest.approx(expected)
    in_halves = [group_scores(answers, half)["mean of four"][RANDOM, "max"].auc for half in HALVES]
    assert np.mean(in_halves) == pytest.approx(expected) and in_halves[0] != in_halves[1]


def test_scores_come_from_the_cache_the_second_time(answers, patches, cache, monkeypatch):
    monkeypatch.setattr("dinox_hf.evaluation.study.patch_probe._out_of_fold", None)
    again = answer_all([a_half(patches, half) for half in HALVES], SETTINGS, cache, 1)
    assert [answer.scores for answer in again] == [answer.scores for answer in answers]


def test_a_question_without_positives_says_so_and_its_average_is_left_out(answers, patches, cache):
    halves = [a_half(patches, half) for half in HALVES]
    for half in halves:
        half.ratings["margin"] = [[5, 5, 5] for _ in half.patient_ids]
    found = answer_all(halves, SETTINGS, cache, 1)
    assert "half_a: label 0 has 0 nodules" in found[3].not_measured
    assert found[0] == answers[0]
    assert group_scores(found) == {}


def test_the_record_is_plain_json_and_the_text_holds_its_numbers(answers, tmp_path):
    run = {"half": "half_a", "seed": 0, "part": PLAIN, "steps": 9, "log_k": 5.5, "cls_loss": 4.0, "alarms": []}
    run |= {"teacher_entropy": 5.0, "effective_rank": 20.0}
    record = answers_record(answers) | {"runs": [run], "time": {"probing": {"wall_s": 60.0, "cpu_s": 90.0}}}
    assert json.loads(json.dumps(record)) == record
    text = markdown(record)
    score = record["averages"][0]["scores"][0]
    assert f"| trained | cls | {score['auc']:.3f} | {score['interval'][0]:.3f}–{score['interval'][1]:.3f} |" in text
    assert "| probing | 1.0 | 1.5 |" in text
    assert "reached" in verdict(record)[0] and "NOT" not in verdict(record)[0]
    draw_patch_probes(tmp_path / "probes.png", {each["name"]: each["scores"] for each in record["questions"]})
    assert (tmp_path / "probes.png").stat().st_size > 10_000


def test_a_half_is_shown_only_to_networks_that_learned_from_the_other(patches, tmp_path, monkeypatch):
    runs = []
    for half in HALVES:
        for part in (PLAIN, GRAM):
            folder = write_run(tmp_path / f"{half}_{part}", tmp_path)
            weights = folder / "checkpoints" / "step_00000020" / "backbone" / "model.safetensors"
            _scale(weights, 1.0 + len(runs))
            runs.append(patch_study.TrainedRun(folder, half, 0, part))
    seen = []
    monkeypatch.setattr(patch_study, "answer_all", lambda halves, *_: seen.extend(halves) or [])
    monkeypatch.setattr(patch_study, "answers_record", lambda _: {})
    record = patch_study.measure(patches, runs, SETTINGS, tmp_path / "cache", 1)
    digests = {run.folder.name: patch_study.load_backbone(_backbone(run)).digest for run in runs}
    for half, other in zip(seen, reversed(HALVES), strict=True):
        assert half.key["networks"][PLAIN] == [digests[f"{other}_{PLAIN}"]]
        assert half.key["networks"][GRAM] == [digests[f"{other}_{GRAM}"]]
        assert {half_of(patient) for patient in half.patient_ids} == {half.name}
    assert len(set(digests.values())) == 4
    assert [run["cls_loss"] for run in record["runs"]] == [4.0] * 4


def _backbone(run):
    return run.folder / "checkpoints" / "step_00000020" / "backbone"


def _scale(path, factor):
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor * torch.tensor(factor) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
