import json
from pathlib import Path

import pytest

import training.learn as script
from dinox_hf.data.sources.lidc_patches import read_patches
from dinox_hf.evaluation.study.patch_probe import GRAM, PLAIN
from dinox_hf.pretraining.config_file import flat, to_dict
from dinox_hf.pretraining.schedules import Schedule
from tests.data.built_set import noisy_series, series_rows, write_built_set
from tests.data.patches import write_patches


@pytest.fixture(scope="module")
def parts():
    return {part.run.part: part for part in script.chain(Path("elsewhere"), "half_b", 2, [])}


def test_without_a_folder_of_real_images_the_command_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="expects DINOX_REAL_DATA to name a folder"):
        script.build(None, tmp_path)


def test_the_two_second_parts_differ_in_gram_anchoring_alone(parts):
    plain, gram = (flat(to_dict(parts[part].config)) for part in (PLAIN, GRAM))
    changed = {name for name in plain if plain[name] != gram[name]}
    assert changed == {"output", "gram.first_step", "gram.weight", "gram.ramp_steps", "gram.max_refreshes"}
    assert (plain["gram.first_step"], gram["gram.first_step"]) == (None, 0)


def test_the_second_part_goes_on_where_the_first_one_stops(parts):
    trunk, plain = (parts[part].config for part in (script.TRUNK, PLAIN))
    assert plain.init.from_run == trunk.output == "elsewhere/runs/half_b_seed2_trunk"
    assert plain.init.take == "everything" and (trunk.seed, plain.seed) == (2, 1002)
    last, first = Schedule(trunk, 32)(trunk.steps - 1), Schedule(plain, 32)(0)
    for name in ("lr", "weight_decay", "ema_momentum", "teacher_temperature"):
        assert getattr(last, name) == pytest.approx(getattr(first, name)), name


def test_a_chain_learns_from_the_patches_of_its_half_alone(parts):
    for part in parts.values():
        patches, *series = part.config.data.sets
        assert (patches.folder, patches.split) == ("elsewhere/patches", "half_b")
        assert [each.folder for each in series] == ["elsewhere/ct/LIDC-IDRI-0001", "elsewhere/ct/Lung_Dx-A0002"]


def test_overrides_reach_every_run():
    for part in script.chain(Path("elsewhere"), "half_a", 0, ["--steps=7"]):
        assert part.config.steps == 7 and part.arguments[-1] == "--steps=7"


def test_a_patient_in_a_ct_series_and_among_the_patches_is_refused(tmp_path):
    patches = read_patches(write_patches(tmp_path / "patches.npz"))
    for patient, is_refused in (("P-003", True), ("P-999", False)):
        rows = series_rows(noisy_series(0, (2, 16, 16)), patient)
        folder = write_built_set(tmp_path / patient, {"train-00000-of-00001": rows})
        if is_refused:
            with pytest.raises(ValueError, match="found patient P-003 in the CT series of P-003 and the patches"):
                script.refuse_common_patients(patches, folder)
        else:
            script.refuse_common_patients(patches, folder)


def test_a_run_counts_as_finished_by_its_checkpoint_not_by_its_log(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 8}\n')
    assert script.steps_done(tmp_path, 8) == 7
    checkpoint = tmp_path / "checkpoints" / "step_00000008"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    assert script.steps_done(tmp_path, 8) == 8


def test_time_adds_up_over_attempts(tmp_path):
    for _ in range(2):
        with script.timed(tmp_path, "probing"):
            pass
    with pytest.raises(KeyboardInterrupt), script.timed(tmp_path, "pretraining"):
        raise KeyboardInterrupt
    assert set(json.loads(script.time_file(tmp_path).read_text())) == {"probing", "pretraining"}


@pytest.mark.long
@pytest.mark.real_data
def test_the_whole_experiment_runs_on_real_data_and_then_finds_everything_done(real_data, tmp_path, capsys):
    arguments = ["--data", str(real_data), "--out", str(tmp_path / "learn"), "--seeds=1", "--steps=2"]
    script.main(arguments)
    report = (tmp_path / "learn" / "report.json").read_text()
    record = json.loads(report)
    assert record["patches"]["halves"]["half_a"] == {"nodules": 349, "patients": 149}
    assert [run["steps"] for run in record["runs"]] == [2] * 6
    # Two steps teach nothing: the procedure must not make it look otherwise.
    assert abs(record["averages"][0]["gains"][0]["gain"]) < 0.05
    logs = {path: path.stat().st_size for path in (tmp_path / "learn" / "runs").glob("*.log")}
    script.main(arguments)
    assert {path: path.stat().st_size for path in logs} == logs
    again = json.loads((tmp_path / "learn" / "report.json").read_text())
    assert again["averages"] == record["averages"]
