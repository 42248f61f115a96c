import pytest

from dinox_hf.pretraining.schedules import constant_with_warmup, cosine_v1, linear_warmup_cosine, lr_factor, ramp


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
