"""The pretraining script in this process: a run, its files, and the same run again after an interruption."""

import json
import shutil
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

import training.pretrain as script
from dinox_hf.data.slices import SliceSet
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.run import Run
from tests.data.built_set import noisy_series, series_rows, write_built_set
from tests.training.tiny import TINY, tiny_config, tiny_set


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set") / "built")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """The folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("run") / "whole"
    script.main(tiny_config(data, output))
    return output


def logged(folder):
    timing = {"images_per_second", "share_waiting_for_data", "memory_gb"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def all_weights(folder):
    checkpoint = latest_checkpoint(folder)
    return load_file(checkpoint / "training.safetensors") | load_file(checkpoint / "backbone" / "model.safetensors")


def assert_same_run(one, other):
    assert latest_checkpoint(one).name == latest_checkpoint(other).name
    expected, found = all_weights(one), all_weights(other)
    assert expected.keys() == found.keys()
    for part in ("student.", "teacher.dino_head.", "teacher.ibot_head.", "gram_teacher.", "optimizer.", "monitor."):
        assert any(name.startswith(part) for name in expected), part
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert logged(one) == logged(other)


def test_a_run_writes_what_it_depended_on(finished, data):
    record = yaml.safe_load((finished / "run.yaml").read_text())
    lineage = record.pop("lineage")
    assert record["data"]["folder"] == str(data) and record["dino_head"]["num_prototypes"] == 16
    assert lineage["data_num_slices"] == 11 and lineage["images_per_step"] == 4
    config = load_config(PretrainConfig, None, [f"--{k}={json.dumps(v)}" for k, v in record.items()])
    assert config == tiny_config(data, finished)


def test_every_step_is_logged_with_finite_terms(finished):
    lines = logged(finished)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for name in ("dino_global", "dino_local", "ibot", "koleo", "cls_loss", "effective_rank", "teacher_entropy"):
        assert all(abs(line[name]) < 1e4 for line in lines), name
    assert all(line["is_finite"] == 1 for line in lines)


def test_gram_anchoring_begins_where_the_configuration_says(finished):
    # first_step 2: the third update is the first with a copy to hold on to; its weight is still 0.
    assert ["gram" in line for line in logged(finished)] == [False, False, False, True, True, True]


def test_rotation_keeps_the_newest_checkpoints(finished):
    names = sorted(folder.name for folder in (finished / "checkpoints").iterdir())
    assert names == ["step_00000004", "step_00000006"]


def test_the_teacher_loads_by_automodel_from_the_checkpoint(finished):
    backbone = AutoModel.from_pretrained(latest_checkpoint(finished) / "backbone")
    assert type(backbone).__name__ == "Dinov3CTModel"
    assert backbone(torch.zeros(1, 3, 32, 32)).last_hidden_state.isfinite().all()


def test_a_picture_shows_the_fixed_slices(finished):
    picture = finished / "pictures" / "step_00000006.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


class Killed(Exception):
    """Stands for a kill -9: nothing of ours runs after it."""


def test_a_run_killed_before_its_first_checkpoint_starts_over(finished, data, tmp_path, monkeypatch):
    take_step = script.training_step

    def killed_at(*arguments):
        nonlocal countdown
        if countdown == 0:
            raise Killed
        countdown -= 1
        return take_step(*arguments)

    countdown = 1
    output = tmp_path / "run"
    monkeypatch.setattr(script, "training_step", killed_at)
    with pytest.raises(Killed):
        script.main(tiny_config(data, output))
    monkeypatch.undo()
    # The other number of workers changes nothing.
    script.main(tiny_config(data, output, "--data.num_workers=1"), resume="auto")
    assert_same_run(finished, output)


def test_a_kill_while_saving_leaves_the_previous_checkpoint(finished, data, tmp_path, monkeypatch):
    import dinox_hf.pretraining.checkpoint as checkpoint

    save_file, output = checkpoint.save_file, tmp_path / "run"

    def killed_at_step_4(tensors, path):
        if "step_00000004" in str(path):
            path.write_bytes(b"half a file")
            raise Killed
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", killed_at_step_4)
    with pytest.raises(Killed):
        script.main(tiny_config(data, output))
    monkeypatch.undo()
    assert latest_checkpoint(output).name == "step_00000002"
    script.main(tiny_config(data, output), resume="always")
    assert_same_run(finished, output)


def test_a_signal_saves_this_step_and_resuming_gives_the_same_run(finished, data, tmp_path, monkeypatch):
    output, watch = tmp_path / "run", Run.watch

    def interrupted(run, *arguments):
        watch(run, *arguments)
        if run.first_step == 0 and len(run.progress_seen) == 2:
            signal.raise_signal(signal.SIGTERM)
        run.progress_seen.append(1)

    monkeypatch.setattr(Run, "progress_seen", [], raising=False)
    monkeypatch.setattr(Run, "watch", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    script.main(tiny_config(data, output))
    assert signal.getsignal(signal.SIGTERM) is before
    assert latest_checkpoint(output).name == "step_00000003"
    monkeypatch.undo()
    script.main(tiny_config(data, output), resume="always")
    assert_same_run(finished, output)


def test_accumulated_micro_batches_are_one_update(data, tmp_path):
    config = tiny_config(data, tmp_path / "run", "--batch.size=2", "--batch.accumulate=2", "--steps=2")
    script.main(config)
    assert [line["step"] for line in logged(tmp_path / "run")] == [1, 2]
    record = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert record["lineage"]["images_per_step"] == 4


@pytest.mark.parametrize(
    ("resume", "message"),
    [("never", r"found step_00000006 of an earlier run.*--resume"), ("always", r"found a change in seed: 0 became 1")],
)
def test_a_run_folder_is_never_mixed_with_another_run(resume, message, finished, data):
    with pytest.raises(ValueError, match=message):
        script.main(tiny_config(data, finished, "--seed=1"), resume=resume)


def test_a_run_is_not_continued_on_other_slices(finished, tmp_path):
    rows = series_rows(noisy_series(7, (11, 64, 64)), "P-9")
    other = write_built_set(tmp_path / "other", {"train-00000-of-00001": rows})
    with pytest.raises(ValueError, match=r"fingerprint \w+ that .*run.yaml records; found \w+ in .*other"):
        script.main(tiny_config(other, finished, "--steps=6"), resume="always")


def test_a_set_may_move_but_not_change_its_weight_or_stride_under_a_run(finished, data, tmp_path):
    moved = shutil.copytree(data, tmp_path / "moved")
    script.main(tiny_config(moved, finished, "--data.num_workers=1"), resume="always")
    with pytest.raises(ValueError, match=r"found a change in data.z_stride: 1 became 2"):
        script.main(tiny_config(data, finished, "--data.z_stride=2"), resume="always")


def test_a_streamed_run_starts_saves_pictures_and_resumes(data, tmp_path):
    output = tmp_path / "run"
    streamed = ("--data.streaming=true", "--data.shuffle_buffer=8", "--steps=4")
    script.main(tiny_config(data, output, *streamed, "--save_every=2"))
    record = yaml.safe_load((output / "run.yaml").read_text())["lineage"]
    assert record["data_fingerprint"] == SliceSet(data).fingerprint
    assert (output / "pictures" / "step_00000004.png").is_file()
    shutil.rmtree(output / "checkpoints" / "step_00000004")
    script.main(tiny_config(data, output, *streamed, "--save_every=2", "--data.num_workers=1"), resume="always")
    assert [line["step"] for line in logged(output)] == [1, 2, 3, 4]


def test_two_sets_are_mixed_and_both_recorded(data, tmp_path, capsys):
    other = write_built_set(
        tmp_path / "other", {"train-00000-of-00001": series_rows(noisy_series(7, (9, 64, 64)), "P-9")}
    )
    sets = f"--data={{folders: [{{folder: {data}, weight: 3}}, {{folder: {other}}}], num_workers: 0}}"
    output = tmp_path / "run"
    arguments = [*TINY, sets, f"--output={output}", "--steps=2"]
    script.main(load_config(PretrainConfig, None, arguments))
    record = yaml.safe_load((output / "run.yaml").read_text())
    assert record["lineage"]["data_num_slices"] == 11 + 9
    assert record["lineage"]["data_fingerprint"].count("+") == 1
    assert "A batch of 4 slices holds several of a series" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"found a change in data.folders: \[3.0, 1.0\] became \[1.0, 1.0\]"):
        changed = [argument.replace(", weight: 3", "") for argument in arguments]
        script.main(load_config(PretrainConfig, None, changed), resume="always")


def test_resuming_a_folder_without_a_checkpoint_says_where_it_looked(data, tmp_path):
    with pytest.raises(ValueError, match=r"checkpoint under .*checkpoints; found none.*without --resume"):
        script.main(tiny_config(data, tmp_path / "run"), resume="always")


def test_an_unknown_preset_names_the_presets(data, tmp_path):
    with pytest.raises(ValueError, match=r"vits61.*vits16"):
        script.main(tiny_config(data, tmp_path / "run", "--model.preset=vits61"))
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_nobody_knows_stops_the_run_before_it_begins(data, tmp_path):
    with pytest.raises(ValueError, match=r"trackers expects names among .*found tensorbord"):
        script.main(tiny_config(data, tmp_path / "run", "--trackers=[tensorbord]"))


def test_arguments_come_in_any_order(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("steps: 7")
    config, resume = script.read_arguments(["--seed=3", str(path), "--resume=auto"])
    assert (config.steps, config.seed, resume) == (7, 3, "auto")
    assert script.read_arguments([])[0].output == "outputs/quickstart/run"


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ([], "never"),
        (["--resume"], "always"),
        (["--resume", "auto"], "auto"),
        (["--resume=auto"], "auto"),
        (["--resume", "--seed=3"], "always"),
    ],
)
def test_resume_is_spelled_with_a_space_or_an_equals_sign(words, meaning, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("steps: 7")
    for arguments in ([str(path), *words], [*words, "--log_every=5", str(path)]):
        config, resume = script.read_arguments(arguments)
        assert (config.steps, resume) == (7, meaning)
    assert script.read_arguments(["--resume", str(path)])[1] == "always"
