import math

import pytest

from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.schedules import (
    Schedule,
    constant_with_warmup,
    cosine_v1,
    linear_warmup_cosine,
    lr_factor,
    ramp,
)


def test_linear_warmup_cosine_by_hand():
    values = [
        linear_warmup_cosine(step, start=0.0, peak=4.0, end=2.0, warmup_steps=2, total_steps=5) for step in range(7)
    ]
    assert values == pytest.approx([0, 2, 4, 3, 2, 2, 2])


def test_cosine_steps_end_the_cosine_before_the_run_ends():
    values = [
        linear_warmup_cosine(step, start=1.0, peak=1.0, end=0.0, warmup_steps=1, total_steps=9, cosine_steps=3)
        for step in range(6)
    ]
    assert values == pytest.approx([1, 1, 0.5, 0, 0, 0])


def test_cosine_v1_freezes_climbs_and_falls_by_hand():
    schedule = {"base": 4.0, "final": 0.0, "total_steps": 7, "warmup_steps": 3, "freeze_steps": 2}
    values = [cosine_v1(step, **schedule) for step in range(9)]
    assert values == pytest.approx([0, 0, 0, 2, 4, 4, 2, 0, 0])


def test_a_truncated_cosine_still_ends_on_its_final_value():
    # Two steps planned as four: cosine heights 1 and 0.75, stretched to 1 and 0.
    values = [cosine_v1(step, base=3.0, final=1.0, total_steps=2, truncate_extra=1.0) for step in range(3)]
    assert values == pytest.approx([3, 1, 1])


def test_a_warm_up_of_one_step_starts_at_its_first_value():
    assert cosine_v1(0, base=1.0, final=0.0, total_steps=3, warmup_steps=1, warmup_start=0.25) == 0.25


def test_constant_with_warmup_by_hand():
    values = [constant_with_warmup(step, start=0.04, peak=0.07, warmup_steps=3) for step in range(5)]
    assert values == pytest.approx([0.04, 0.05, 0.06, 0.07, 0.07])
    assert constant_with_warmup(0, peak=0.07, warmup_steps=0) == 0.07


def test_ramp_holds_changes_and_holds():
    values = [ramp(step, before=0.0, after=2.0, begin_step=2, num_steps=3) for step in range(7)]
    assert values == pytest.approx([0, 0, 0, 1, 2, 2, 2])
    assert [ramp(step, before=1.0, after=0.5, begin_step=1, num_steps=0) for step in range(3)] == [1, 0.5, 0.5]


@pytest.mark.parametrize(
    ("rule", "batch_size", "factor"), [("sqrt_wrt_1024", 64, 1.0), ("linear_wrt_256", 64, 0.25), ("none", 64, 1.0)]
)
def test_lr_factor_by_hand(rule, batch_size, factor):
    assert lr_factor(rule, batch_size) == factor


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"sqrt_wrt_1024, linear_wrt_256, none; found 'sqrt'"):
        lr_factor("sqrt", 64)


def learning_rates(num_steps, *optimizer):
    config = load_config(
        PretrainConfig, None, ["--steps=9", "--optimizer={lr: 0.1, lr_end: 0.02, lr_scaling: none}", *optimizer]
    )
    schedule = Schedule(config, images_per_step=1)
    return [schedule(step).lr for step in range(num_steps)]


def test_a_cosine_falls_to_its_end_and_a_constant_stays_by_hand():
    climb = ["--optimizer.warmup_steps=4"]
    assert learning_rates(9, *climb) == pytest.approx(
        [0, 0.025, 0.05, 0.075, 0.1, *(0.02 + 0.04 * (1 + math.cos(math.pi * k / 4)) for k in range(1, 5))]
    )
    constant = learning_rates(12, *climb, "--optimizer.schedule=constant")
    assert constant == pytest.approx([0, 0.025, 0.05, 0.075] + 8 * [0.1])


def test_the_climb_may_be_half_a_cosine_by_hand():
    rates = learning_rates(
        7, "--optimizer={warmup_steps: 5, warmup: cosine, schedule: constant, lr_scaling: none, lr: 1}"
    )
    assert rates == pytest.approx([0, (1 - math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(math.pi / 4)) / 2, 1, 1, 1])


def test_without_a_ramp_the_gram_term_has_its_full_weight_at_once():
    stage = ["--gram={first_step: 0, ramp_steps: 0, weight: 1.5, max_refreshes: 0}"]
    config = load_config(PretrainConfig, None, stage)
    schedule = Schedule(config, images_per_step=1)
    assert [schedule(step).gram_weight for step in (0, 1, 9999, 50_000)] == [1.5] * 4
    assert not any(schedule(step).refresh_gram_teacher for step in range(0, 30_000))


def test_a_gram_teacher_that_was_brought_along_is_replaced_on_time_and_not_before_by_hand():
    config = load_config(PretrainConfig, None, ["--gram={first_step: 0, refresh_every: 10, max_refreshes: 3}"])
    schedule = Schedule(config, images_per_step=1)
    assert [step for step in range(100) if schedule(step).refresh_gram_teacher] == [9, 19, 29]
