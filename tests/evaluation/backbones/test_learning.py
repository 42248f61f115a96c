import math

import pytest

from dinox_hf.evaluation.backbones.learning import (
    final_value,
    latest_checkpoint,
    learning_criteria,
    learning_facts,
    read_metrics,
)

CONFIG = {"dino_head": {"num_prototypes": 256}}


def criteria(cls_loss: float, entropy: float, rank: float, gain: float | None) -> list[bool | None]:
    facts = learning_facts(CONFIG, [{"step": 1, "cls_loss": cls_loss, "teacher_entropy": entropy}])
    return [criterion["reached"] for criterion in learning_criteria(facts, rank, gain)]


def test_a_loop_that_learns_reaches_all_four():
    assert criteria(math.log(256) - 0.31, 0.91 * math.log(256), 10.0, 0.03) == [True] * 4


def test_a_loop_that_stays_at_log_k_reaches_none():
    assert criteria(math.log(256) - 0.29, 0.9 * math.log(256), 9.9, 0.029) == [False] * 4


def test_what_was_not_measured_is_neither_yes_nor_no():
    facts = learning_facts(None, [])
    reached = [criterion["reached"] for criterion in learning_criteria(facts, 12.0, None)]
    assert reached == [None, None, True, None]


def test_final_values_are_means_over_the_last_tenth():
    assert final_value([{"loss": float(step)} for step in range(20)], "loss") == 18.5


def test_the_half_line_of_a_killed_run_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 1}]


def test_only_complete_checkpoints_count(tmp_path):
    for step, is_complete in ((9, True), (10, True), (11, False)):
        folder = tmp_path / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        if is_complete:
            (folder / "state.json").write_text("{}")
    assert latest_checkpoint(tmp_path).name == "step_00000010"


def test_a_run_without_a_checkpoint_says_how_to_get_one(tmp_path):
    with pytest.raises(ValueError, match=r"complete checkpoint .* found none.*--resume"):
        latest_checkpoint(tmp_path)
