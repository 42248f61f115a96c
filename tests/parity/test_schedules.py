"""Schedules and learning-rate factors against the reference, at every step and past the end."""

import pytest
import torch

from dinox_hf.pretraining.schedules import constant_with_warmup, cosine_v1, linear_warmup_cosine, lr_factor, ramp
from tests.parity.fixtures import assert_parity, cases, load

OUR_NAMES = {
    "warmup_iterations": "warmup_steps",
    "total_iterations": "total_steps",
    "cosine_iterations": "cosine_steps",
    "base_value": "base",
    "final_value": "final",
    "total_iters": "total_steps",
    "warmup_iters": "warmup_steps",
    "start_warmup_value": "warmup_start",
    "freeze_iters": "freeze_steps",
    "trunc_extra": "truncate_extra",
}
FUNCTIONS = {"linear_warmup_cosine": linear_warmup_cosine, "cosine_v1": cosine_v1}


@pytest.mark.parametrize("case", cases("schedules"))
def test_schedule_matches_at_every_step(case):
    _, outputs = load(case)
    schedule = FUNCTIONS[case["case"].split("/")[0]]
    hyper = {OUR_NAMES.get(name, name): value for name, value in case["hyper"].items()}
    _assert_values(outputs["values"], lambda step: schedule(step, **hyper))


@pytest.mark.parametrize("case", cases("schedules", prefix="linear_warmup_cosine/"))
def test_short_forms_match_where_they_apply(case):
    _, outputs = load(case)
    hyper = case["hyper"]
    start, peak, end, warmup = hyper["start"], hyper["peak"], hyper["end"], hyper["warmup_iterations"]
    if peak == end:
        _assert_values(
            outputs["values"],
            lambda step: constant_with_warmup(step, start=start, peak=peak, warmup_steps=warmup),
        )
    if start == peak and "cosine_iterations" in hyper:
        change = {"begin_step": warmup, "num_steps": hyper["cosine_iterations"]}
        _assert_values(outputs["values"], lambda step: ramp(step, before=start, after=end, **change))


@pytest.mark.parametrize("case", cases("lr_scaling"))
def test_lr_factors_match(case):
    for row in case["table"]:
        batch_size = row["batch_per_gpu"] * row["world"]
        for rule in row.keys() - {"batch_per_gpu", "world"}:
            assert lr_factor(rule, batch_size) == pytest.approx(row[rule], rel=1e-12)


def _assert_values(expected, value_at):
    actual = torch.tensor([value_at(step) for step in range(len(expected))], dtype=torch.float64)
    assert_parity(actual, expected, "values", relative=1e-12)
