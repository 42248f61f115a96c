"""Each alarm is heard under its own name, and a cause silences what it explains."""

import dataclasses
import math
from pathlib import Path

import pytest

from dinox_hf.pretraining.alarms import ALARMS, SKIPPED, AlarmBell, Limits, find_alarms

LOG_K = math.log(4096)
LIMITS = Limits(
    log_k=LOG_K, num_prototypes=4096, num_queued=512, width=384, max_grad_norm=3.0, is_warm=True, is_anchored=True
)
HEALTHY = {
    "probe/contrast": 1.0,
    "update_ratio": 0.01,
    "teacher_distance": 0.05,
    "prototype_usage": 0.3,
    "teacher_entropy": 0.9 * LOG_K,
    "probe/teacher_entropy": 4.0,
    "effective_rank": 60.0,
    "probe/cls_rank": 20.0,
    "probe/patch_rank": 80.0,
    "grad_norm/backbone": 1.0,
    "grad_norm/dino_head": 0.5,
    "cls_loss": LOG_K - 1,
    "probe/gram_drift": 0.05,
}
# One number out of range for each alarm.
BROKEN = {
    "images_alike": {"probe/contrast": 0.0},
    "lr_too_high": {"update_ratio": 0.5, "teacher_distance": 0.5},
    "teacher_follows_student": {"teacher_distance": 0.0},
    "few_prototypes": {"prototype_usage": 1 / 512},
    "hard_targets": {"probe/teacher_entropy": 0.02},
    "flat_targets": {"probe/teacher_entropy": LOG_K - 1e-4},
    "cls_collapse": {"probe/cls_rank": 1.5},
    "patch_collapse": {"probe/patch_rank": 1.5},
    "gradient_explodes": {"grad_norm/dino_head": 1e4},
    "loss_diverges": {"cls_loss": LOG_K + 2},
    "gram_drift": {"probe/gram_drift": 0.6},
}


def test_a_healthy_run_raises_no_alarm():
    assert find_alarms(HEALTHY, LIMITS) == {}


def test_every_alarm_has_a_run_that_raises_it():
    assert tuple(BROKEN) == ALARMS


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_is_heard_alone_and_gives_the_number_and_advice(name):
    found = find_alarms(HEALTHY | BROKEN[name], LIMITS)
    assert list(found) == [name]
    wrong = next(iter(BROKEN[name])).split("/dino_head")[0]
    assert wrong in found[name]
    assert any(verb in found[name] for verb in ("Raise", "Lower", "Look", "check"))


def test_the_teacher_entropy_that_another_monitor_called_healthy_is_an_alarm():
    """A public run let it fall to 0.02 nats, with all images on one prototype or each on its own: both are heard."""
    each_on_its_own = {"probe/teacher_entropy": 0.02}
    assert list(find_alarms(HEALTHY | each_on_its_own, LIMITS)) == ["hard_targets"]
    assert list(find_alarms(HEALTHY | each_on_its_own | {"teacher_entropy": 0.02}, LIMITS)) == ["few_prototypes"]


def test_a_winner_means_nothing_while_the_teacher_is_undecided():
    """At the start one prototype is ahead of the others by a hair, and wins everything."""
    numbers = HEALTHY | {"prototype_usage": 1 / 512, "probe/teacher_entropy": LOG_K - 0.1}
    assert find_alarms(numbers, LIMITS) == {}


def test_a_cause_silences_what_it_explains():
    everything_alike = {"probe/contrast": 0.0, "probe/cls_rank": 1.0, "probe/patch_rank": 1.0}
    assert list(find_alarms(HEALTHY | everything_alike, LIMITS)) == ["images_alike"]


def test_before_the_warm_up_ends_only_broken_data_is_worth_a_word():
    cold = dataclasses.replace(LIMITS, is_warm=False)
    numbers = HEALTHY | {name: value for broken in BROKEN.values() for name, value in broken.items()}
    assert list(find_alarms(numbers, cold)) == ["images_alike"]


def test_patches_may_drift_as_long_as_nothing_anchors_them():
    free = dataclasses.replace(LIMITS, is_anchored=False)
    assert find_alarms(HEALTHY | BROKEN["gram_drift"], free) == {}


def test_numbers_that_are_not_finite_are_an_alarm_and_not_a_crash():
    numbers = dict.fromkeys(HEALTHY, math.nan)
    assert list(find_alarms(numbers, LIMITS)) == ["loss_diverges"]


def test_a_finished_schedule_is_no_alarm():
    """At the end the learning rate is all but 0: the updates are too, and the teacher may lie as near as it likes."""
    assert find_alarms(HEALTHY | {"update_ratio": 0.0, "teacher_distance": 0.0}, LIMITS) == {}


def test_an_alarm_is_said_when_it_begins_and_when_it_is_over():
    bell = AlarmBell()
    assert bell.ring({"hard_targets": "…"}) == (["hard_targets"], [])
    assert bell.ring({"hard_targets": "…"}) == ([], [])
    assert bell.longest() == ("hard_targets", 2)
    assert bell.ring({}) == ([], ["hard_targets"])
    assert bell.longest()[1] == 0


def test_a_bell_that_is_put_back_does_not_ring_again():
    before, after = AlarmBell(), AlarmBell()
    before.ring({"hard_targets": "…"})
    after.load_state(before.state())
    assert after.ring({"hard_targets": "…"}) == ([], [])
    assert after.longest() == ("hard_targets", 2)


@pytest.mark.parametrize("name", [*ALARMS, SKIPPED])
def test_every_alarm_is_explained(name):
    page = Path(__file__).resolve().parents[2] / "docs" / "monitor.md"
    assert f"`{name}`" in page.read_text()
