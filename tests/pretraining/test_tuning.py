"""What is tried, what is left out, and which setting is the best."""

import importlib.util
import sys
from pathlib import Path

import pytest

from dinox_hf.pretraining.config import BatchConfig, PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.trial import Setting, Trial
from dinox_hf.pretraining.tuning import (
    best,
    default_batch_sizes,
    default_workers,
    row,
    search,
    settings,
    verdict,
)
from tests.training.tiny import TINY, tiny_set

ROOT = Path(__file__).resolve().parents[2]


def trial(size, speed, num_workers=2, accumulate=1, fault=""):
    setting = Setting(batch_size=size, accumulate=accumulate, num_workers=num_workers, pin_memory=True)
    return Trial(setting=setting, images_per_second=speed, fault=fault)


def test_micro_batches_keep_the_images_of_an_update():
    assert default_batch_sizes(BatchConfig(size=64, accumulate=4)) == [32, 64, 128, 256]
    assert default_batch_sizes(BatchConfig(size=32, accumulate=1)) == [16, 32]
    assert default_batch_sizes(BatchConfig(size=2, accumulate=3)) == [2]  # 4 does not divide 6, 1 is too small
    config = PretrainConfig(batch=BatchConfig(size=64, accumulate=4))
    tried = settings(config, default_batch_sizes(config.batch), [8], [None])
    assert {setting.batch_size * setting.accumulate for setting in tried} == {256}


def test_workers_follow_the_cores():
    assert default_workers(8, cores=32) == [8, 16]
    assert default_workers(2, cores=2) == [0, 1, 2]


def test_every_combination_is_tried_small_batches_first():
    tried = settings(PretrainConfig(batch=BatchConfig(size=8)), [8, 4], [0, 2], [True, False])
    assert len(tried) == 8 and [setting.batch_size for setting in tried] == [4] * 4 + [8] * 4
    assert {(setting.num_workers, setting.pin_memory) for setting in tried} == {
        (0, True),
        (0, False),
        (2, True),
        (2, False),
    }


def test_what_ran_out_of_memory_is_not_tried_larger_and_the_search_goes_on():
    tried = []

    def measure(setting):
        tried.append(setting)
        fault = "out of memory on the device" if setting.batch_size == 64 else ""
        return Trial(setting=setting, images_per_second=float(setting.batch_size), fault=fault)

    config = PretrainConfig(batch=BatchConfig(size=64, accumulate=4))
    trials = list(search(settings(config, [32, 64, 128], [2, 8], [None]), measure))
    assert [(setting.batch_size, setting.num_workers) for setting in tried] == [(32, 2), (32, 8), (64, 2)]
    assert len(trials) == 6 and trials[-1].fault == "not tried: batch 64 ran out of memory"
    assert best(trials, 256).setting.batch_size == 32


def test_another_fault_leaves_the_rest_to_be_tried():
    faults = iter(["error: no such set", ""])
    config = PretrainConfig(batch=BatchConfig(size=4))
    measured = search(settings(config, [2, 4], [0], [None]), lambda setting: trial(2, 1.0, fault=next(faults)))
    assert [found.fault for found in measured] == ["error: no such set", ""]


def test_the_best_is_the_cheapest_of_those_that_are_as_fast():
    batches = [trial(32, 90.0, accumulate=4), trial(64, 100.0, accumulate=2), trial(128, 101.0)]
    assert best(batches, 128) == batches[1]
    assert best([trial(64, 98.0, num_workers=2), trial(64, 100.0, num_workers=8)], 64) == trial(64, 98.0)


def test_a_faster_setting_of_another_update_does_not_win():
    same = trial(32, 80.0, accumulate=2)
    assert best([same, trial(128, 100.0)], 64) == same


def test_no_number_at_all_says_what_to_do():
    assert best([trial(32, 0.0, fault="error: no such set")], 32) is None
    with pytest.raises(RuntimeError, match="found none"):
        verdict(None, 32)


def test_the_verdict_is_what_one_types():
    text = verdict(trial(32, 80.0, accumulate=2), 64)
    assert "--batch.size=32 --batch.accumulate=2 --data.num_workers=2 --data.pin_memory=true" in text
    assert "instead of 256: another run" in verdict(trial(32, 80.0), 256)
    typed = text.splitlines()[0].split(" with ")[1].split()
    assert load_config(PretrainConfig, None, typed).batch == BatchConfig(size=32, accumulate=2)


def test_a_row_shows_the_numbers_or_the_reason():
    assert "101" in row(trial(32, 101.2)) and "yes" in row(trial(32, 101.2))
    assert row(trial(32, 0.0, fault="out of memory on the device")).endswith("out of memory on the device")


@pytest.mark.long
def test_the_command_measures_real_runs_and_keeps_nothing(tmp_path, monkeypatch, capsys):
    data = tiny_set(tmp_path / "set")
    overrides = [*TINY, "--steps=50", f"--data.folder={data}", "--batch.size=4"]
    options = ["--micro-batches=4,32", "--workers=0", "--steps-per-trial=2"]
    monkeypatch.setattr(sys, "argv", ["tune_throughput.py", *options, *overrides])
    spec = importlib.util.spec_from_file_location("tune_throughput", ROOT / "training" / "tune_throughput.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    out = capsys.readouterr().out
    assert "2 trials of 4 steps each" in out and "--data.num_workers=0" in out.splitlines()[-1]
    assert "must be <= 11" in out  # 32 slices of the 11 that there are: refused, and the search went on
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
