"""Runs broken on purpose, each in another way: the right alarm is the first that is heard; a healthy run is silent."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import training.pretrain as script
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from tests.data.built_set import series_rows, write_built_set
from tests.training.test_pretrain import Killed, assert_same_run, logged
from tests.training.tiny import tiny_config, tiny_set

NUM_PATIENTS = 8
# The proportions of training/configs/quickstart.yaml on a network of two layers: it learns within a hundred steps.
SMALL = [
    "--log_every=5",
    "--save_every=1000",
    "--picture_every=1000",
    "--trackers=[]",
    "--data.num_workers=0",
    "--batch.size=16",
    "--model.preset=vit_tiny",
    "--model.overrides={num_hidden_layers: 2, hidden_size: 48, intermediate_size: 96, layerscale_value: 0.1}",
    "--crops={global_size: 32, local_size: 16, num_local: 2, global_scale: [0.4, 1.0], local_scale: [0.15, 0.5]}",
    "--dino_head={num_prototypes: 64, hidden_dim: 64, bottleneck_dim: 16}",
    "--ibot_head={num_prototypes: 64, hidden_dim: 64, bottleneck_dim: 16}",
    "--losses.koleo=0.05",
    "--teacher={momentum: 0.95, momentum_end: 0.99, temperature_start: 0.02, temperature: 0.025}",
    "--teacher.temperature_warmup_steps=20",
    "--optimizer={lr: 3.0e-3, lr_scaling: none, layerwise_decay: 1.0, patch_embed_lr_multiplier: 1.0}",
    "--optimizer.warmup_steps=20",
]
# What is broken, by the alarm that has to be heard first. Factors are 20 and more, so that no limit is met by a hair.
BROKEN = {
    "few_prototypes": [],  # and no Sinkhorn
    "flat_targets": ["--teacher.temperature=0.5", "--teacher.temperature_start=0.5"],
    "hard_targets": ["--teacher.temperature=0.0005", "--teacher.temperature_start=0.0005"],
    "lr_too_high": ["--optimizer.lr=0.09"],
    "teacher_follows_student": ["--teacher.momentum=0", "--teacher.momentum_end=0"],
    "images_alike": [],  # and constant slices
}


def tissue(seed):
    """(8, 64, 64) HU: blobs of lung and soft tissue with some noise, others in every patient."""
    draw = np.random.default_rng(seed)
    blobs = gaussian_filter(draw.standard_normal((8, 64, 64)), (2, 5, 5), mode="wrap")
    voxels_hu = -400 + 500 * blobs / blobs.std() + 60 * draw.standard_normal(blobs.shape)
    return voxels_hu.clip(-1000, 1500).astype(np.int16)


def built(folder, series):
    rows = [row for patient, voxels_hu in enumerate(series) for row in series_rows(voxels_hu, f"P-{patient}")]
    return write_built_set(folder, {"train-00000-of-00001": rows})


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    return {
        "tissue": built(folder / "tissue", [tissue(patient) for patient in range(NUM_PATIENTS)]),
        "constant": built(folder / "constant", [np.full((8, 64, 64), 40, np.int16)] * NUM_PATIENTS),
    }


def without_sinkhorn(logits, temperature, **options):
    return (logits / temperature).softmax(-1)


def alarms(folder):
    """Every line of alarms.jsonl."""
    return [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]


def heard(sets, output, monkeypatch, kind, *more):
    """Names of the alarms in the order in which they begin."""
    if kind == "few_prototypes":
        monkeypatch.setattr("dinox_hf.pretraining.self_distillation.sinkhorn_knopp", without_sinkhorn)
    data = sets["constant" if kind == "images_alike" else "tissue"]
    arguments = [*SMALL, *BROKEN.get(kind, []), f"--data.folder={data}", f"--output={output}", *more]
    script.main(load_config(PretrainConfig, None, arguments))
    return [line["alarm"] for line in alarms(output) if line["state"] == "begins"]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_is_called_by_its_name(kind, sets, tmp_path, monkeypatch, capsys):
    names = heard(sets, tmp_path / "run", monkeypatch, kind, "--steps=20", "--optimizer.warmup_steps=10")
    assert names[0] == kind
    assert f"ALARM {kind} at step" in capsys.readouterr().out


def test_a_healthy_run_is_silent(sets, tmp_path, monkeypatch):
    assert heard(sets, tmp_path / "run", monkeypatch, "healthy", "--steps=40") == []


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_is_called_by_its_name_whatever_the_seed(kind, seed, sets, tmp_path, monkeypatch):
    names = heard(sets, tmp_path / "run", monkeypatch, kind, "--steps=60", f"--seed={seed}")
    assert names[0] == kind


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_healthy_run_is_silent_to_its_end_whatever_the_seed(seed, sets, tmp_path, monkeypatch):
    assert heard(sets, tmp_path / "run", monkeypatch, "healthy", "--steps=160", f"--seed={seed}") == []
    last = logged(tmp_path / "run")[-1]
    assert last["target_entropy"] < np.log(64) - 0.03, "a run that learns nothing is no healthy one"


def test_a_run_may_stop_on_an_alarm_and_saves_nothing_broken(sets, tmp_path, monkeypatch):
    stop = ("--monitor.stop_on_alarm=3", "--steps=60", "--save_every=10")
    with pytest.raises(
        RuntimeError, match=r"stop_on_alarm is 3; found the alarm images_alike for 3 logs in a row.*null"
    ):
        heard(sets, tmp_path / "run", monkeypatch, "images_alike", *stop)
    # Logs after steps 1, 5 and 10: the third comes before the first checkpoint.
    assert latest_checkpoint(tmp_path / "run") is None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set") / "built")


def broken_at(steps, monkeypatch):
    """Let the crops of some steps hold a NaN, as a broken file would."""
    take_step, count = script.training_step, [0]

    def step_with_nan(accelerator, model, optimizer, micro_batches, values):
        if count[0] in steps:
            micro_batches[0].global_crops[0, 0, 0, 0] = torch.nan
        count[0] += 1
        return take_step(accelerator, model, optimizer, micro_batches, values)

    monkeypatch.setattr(script, "training_step", step_with_nan)
    return count


def test_a_step_without_finite_gradients_is_skipped_counted_and_its_slices_named(data, tmp_path, monkeypatch, capsys):
    broken_at({2, 4}, monkeypatch)
    script.main(tiny_config(data, tmp_path / "run", "--log_every=3"))
    assert [(line["step"], line["skipped_steps"]) for line in logged(tmp_path / "run")] == [(1, 0), (3, 1), (6, 2)]
    lines = [line for line in alarms(tmp_path / "run") if line["alarm"] == "skipped_step"]
    assert [line["step"] for line in lines] == [3, 5]
    slices = lines[0]["slices"]
    assert len(slices) == 4 and {entry["patient_id"] for entry in slices} <= {"P-1", "P-2"}
    assert all(0 <= entry["slice_index"] < 6 and entry["set"] == str(data) for entry in slices)
    assert "SKIPPED: the gradient of step 3 was not finite" in capsys.readouterr().out


def test_a_run_that_only_skips_stops_and_saves_nothing_broken(data, tmp_path, monkeypatch):
    broken_at(range(2, 100), monkeypatch)
    config = tiny_config(data, tmp_path / "run", "--steps=8", "--log_every=8", "--monitor.max_skipped_steps=3")
    with pytest.raises(RuntimeError, match=r"finite gradients; found 4 steps in a row.*alarms.jsonl.*--resume"):
        script.main(config)
    # Saved after step 2, which was whole, and after step 4 with two skipped; after step 6 it is over.
    assert latest_checkpoint(tmp_path / "run").name == "step_00000004"
    monkeypatch.undo()
    script.main(config, resume="always")
    assert logged(tmp_path / "run")[-1]["skipped_steps"] == 2


def test_skipped_steps_and_alarms_are_the_same_after_a_kill(data, tmp_path, monkeypatch):
    options = ("--steps=8", "--log_every=3", "--save_every=2", "--optimizer.warmup_steps=0")
    broken_at({2, 4}, monkeypatch)
    script.main(tiny_config(data, tmp_path / "whole", *options))
    monkeypatch.undo()

    count = broken_at({2, 4}, monkeypatch)
    take_step = script.training_step

    def killed(*arguments):
        if count[0] == 5:
            raise Killed
        return take_step(*arguments)

    monkeypatch.setattr(script, "training_step", killed)
    with pytest.raises(Killed):
        script.main(tiny_config(data, tmp_path / "run", *options))
    monkeypatch.undo()
    broken_at({0}, monkeypatch)  # the first step after the checkpoint is the fifth of the run
    script.main(tiny_config(data, tmp_path / "run", *options), resume="always")
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert alarms(tmp_path / "whole") == alarms(tmp_path / "run") and alarms(tmp_path / "run")


def test_every_number_that_is_logged_is_explained(data, tmp_path):
    script.main(tiny_config(data, tmp_path / "run", "--steps=5"))
    page = (script.Path(script.__file__).parents[1] / "docs" / "monitor.md").read_text()
    numbers = {
        name for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() for name in json.loads(line)
    }
    assert {"gram", "probe/gram_drift", "memory_gb"} <= numbers
    assert not {name for name in numbers - {"step"} if f"`{name}`" not in page}


def test_pictures_reach_the_tracker_as_well(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    script.main(tiny_config(data, tmp_path / "run", "--steps=2", "--picture_every=1", "--trackers=[tensorboard]"))
    events = EventAccumulator(str(tmp_path / "run" / "dinox-hf"))
    events.Reload()
    assert [image.step for image in events.Images("pictures/teacher")] == [1, 2]
    assert [event.step for event in events.Scalars("probe/teacher_entropy")] == [1, 2]
