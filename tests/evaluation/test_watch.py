import json
import shutil
from dataclasses import replace

import pytest
import yaml

from dinox_hf.evaluation import watch
from dinox_hf.evaluation.backbones.subject import EvaluationSettings
from dinox_hf.evaluation.watch import LINES, Watch, read_lines, watch_run
from dinox_hf.pretraining.checkpoint_folders import damage, seal

SETTINGS = EvaluationSettings(field_mm=24, num_seeds=1, num_random=1, max_slices=10)


def report(step: int) -> dict:
    return {
        "backbone": {"weights_digest": f"w{step}"},
        "probes": [
            {
                "question": "malignancy A",
                "not_measured": None,
                "scores": [
                    {"features": "backbone", "pooling": "cls", "auc": 0.5 + step / 100, "interval": [0.4, 0.9]}
                ],
            }
        ],
        "cls_gain": {"gain": step / 100, "interval": [0.0, 0.2]},
        "collapse": {"nodules": {"backbone": {"effective_rank": 3.0 + step}}},
    }


class Bed:
    """A run folder whose checkpoints a test writes, and a watch that notes what it evaluates."""

    def __init__(self, folder):
        self.run, self.evaluated, self.told = folder / "run", [], []
        (self.run / "checkpoints").mkdir(parents=True)
        (self.run / "run.yaml").write_text(yaml.safe_dump({"steps": 30}))
        self.watch = Watch(
            self.run, folder / "out", {"suite": "light"}, self.evaluate, damage, self.told.append, every_s=0.01
        )

    def checkpoint(self, step: int, weights: str = "weights"):
        folder = self.run / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(exist_ok=True)
        (folder / "state.json").unlink(missing_ok=True)  # a seal counts every file it finds
        (folder / "weights.bin").write_text(weights)
        seal(folder, step)
        return folder

    def evaluate(self, step, out):
        self.evaluated.append(step)
        return report(step)


@pytest.fixture
def bed(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "draw_watch", lambda path, points: path.write_text(str(len(points))))
    return Bed(tmp_path)


def test_every_checkpoint_is_evaluated_once_though_the_watch_is_started_again(bed):
    bed.checkpoint(10), bed.checkpoint(20)
    bed.watch.until_the_end(once=True)
    bed.watch.until_the_end(once=True)
    assert bed.evaluated == [10, 20]
    bed.checkpoint(30)
    lines = replace(bed.watch).until_the_end()  # the last step: no waiting
    assert bed.evaluated == [10, 20, 30]
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[2]["auc"]["malignancy A"]["backbone, cls"] == [0.8, 0.4, 0.9]
    assert (bed.watch.out / "watch.png").read_text() == "3"


def test_checkpoints_that_appear_while_waiting_are_evaluated(bed, monkeypatch):
    bed.checkpoint(10)
    coming = [20, 30]
    monkeypatch.setattr("time.sleep", lambda _: bed.checkpoint(coming.pop(0)))
    bed.watch.until_the_end()
    assert bed.evaluated == [10, 20, 30]
    assert sum("Waiting" in line for line in bed.told) == 2


def test_damaged_and_unfinished_ones_are_passed_over_and_looked_at_again_when_they_change(bed):
    broken = bed.checkpoint(10)
    (broken / "weights.bin").write_text("other!!")
    (bed.run / "checkpoints" / "step_00000020").mkdir()
    (bed.run / "checkpoints" / ".step_00000030.deleting").mkdir()
    bed.watch.until_the_end(once=True)
    assert bed.evaluated == [] and read_lines(bed.watch.out) == []
    assert bed.told == [
        "step_00000010: passed over, weights.bin holds other bytes than were written.",
        "step_00000020: passed over, state.json is missing.",
    ]
    bed.checkpoint(10), bed.checkpoint(20)
    bed.watch.until_the_end(once=True)
    assert bed.evaluated == [10, 20]


def test_one_that_rotation_deletes_while_it_is_read_is_passed_over(bed):
    first = bed.checkpoint(10)
    bed.checkpoint(30)

    def evaluate(step, out):
        if step == 10:
            shutil.rmtree(first)
            raise OSError("no such file")
        return bed.evaluate(step, out)

    replace(bed.watch, evaluate=evaluate).until_the_end()
    assert bed.evaluated == [30]
    assert "step_00000010: passed over, it was deleted while it was read." in bed.told


def test_a_diverged_one_leaves_its_reason_and_is_tried_again_by_the_next_command(bed):
    bed.checkpoint(10), bed.checkpoint(30)

    def evaluate(step, out):
        if step == 10:
            raise ValueError("Expected finite features; found NaN.")
        return bed.evaluate(step, out)

    lines = replace(bed.watch, evaluate=evaluate).until_the_end()
    assert lines[0]["error"] == "Expected finite features; found NaN." and "error" not in lines[1]
    bed.watch.until_the_end(once=True)
    assert bed.evaluated == [30, 10]
    assert not any("error" in line for line in read_lines(bed.watch.out))


def test_new_weights_under_an_old_name_and_another_question_are_evaluated_anew(bed):
    bed.checkpoint(30)
    bed.watch.until_the_end()
    bed.checkpoint(30, "other weights")
    bed.watch.until_the_end(once=True)
    replace(bed.watch, asked={"suite": "full"}).until_the_end(once=True)
    assert bed.evaluated == [30, 30, 30]
    assert [line["asked"]["suite"] for line in read_lines(bed.watch.out)] == ["light", "full"]


def test_ctrl_c_in_an_evaluation_leaves_whole_lines_and_the_rest_for_later(bed):
    bed.checkpoint(10), bed.checkpoint(30)

    def evaluate(step, out):
        if step == 30:
            raise KeyboardInterrupt
        return bed.evaluate(step, out)

    with pytest.raises(KeyboardInterrupt):
        replace(bed.watch, evaluate=evaluate).until_the_end()
    assert [json.loads(line)["step"] for line in (bed.watch.out / LINES).read_text().splitlines()] == [10]
    bed.watch.until_the_end()
    assert bed.evaluated == [10, 30]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"run folder with run\.yaml .*found none"):
        watch_run(str(tmp_path), None, None, SETTINGS, False, damage).until_the_end()


def test_a_real_checkpoint_goes_through_the_light_suite(tiny_run):
    config = yaml.safe_load((tiny_run / "run.yaml").read_text())
    (tiny_run / "run.yaml").write_text(yaml.safe_dump(config | {"steps": 20}))
    checkpoint = tiny_run / "checkpoints" / "step_00000020"
    (checkpoint / "state.json").unlink()
    seal(checkpoint, 20)
    (line,) = watch_run(str(tiny_run), None, None, SETTINGS, False, damage).until_the_end()
    out = tiny_run / "evaluation" / "watch"
    found = json.loads((out / "step_00000020" / "report.json").read_text())
    assert found["backbone"]["checkpoint"] == "step_00000020" and "attention" not in found
    assert line["cls_gain"][0] == found["cls_gain"]["gain"] and line["asked"]["suite"] == "light"
    assert (out / "features").is_dir() and (out / "watch.svg").is_file()
    assert str(tiny_run.parent) not in (out / LINES).read_text()
