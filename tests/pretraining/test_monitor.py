"""Each alarm is heard on a teacher that is broken on purpose, and silent on a healthy one."""

import math

import pytest
import torch

from dinox_hf.losses.sinkhorn import sinkhorn_knopp
from dinox_hf.pretraining.monitor import CollapseMonitor
from dinox_hf.pretraining.self_distillation import TeacherTargets

NUM_PROTOTYPES, WIDTH, BATCH = 64, 128, 32
TEMPERATURE = 0.07


def targets(cls, logits):
    return TeacherTargets(
        cls_probs=sinkhorn_knopp(logits.flatten(0, 1), TEMPERATURE).view_as(logits),
        masked_probs=torch.zeros(0, NUM_PROTOTYPES),
        cls=cls,
        marginal=(logits.flatten(0, 1) / TEMPERATURE).softmax(-1).mean(0),
        patches=None,
    )


def watched(make, steps=200):
    """The monitor after some steps of a teacher, and what it says."""
    generator = torch.Generator().manual_seed(0)
    monitor = CollapseMonitor(NUM_PROTOTYPES, WIDTH, torch.device("cpu"))
    for _ in range(steps):
        monitor.observe([targets(*make(generator))])
    report = monitor.report()
    return report, monitor.alarms(report, cls_loss=3.0)


def healthy(generator):
    cls = torch.randn(2, BATCH, WIDTH, generator=generator)
    return cls, 0.3 * torch.randn(2, BATCH, NUM_PROTOTYPES, generator=generator)


def one_prototype_wins(generator):
    cls, logits = healthy(generator)
    logits[..., 3] += 5.0
    return cls, logits


def all_images_on_one_point(generator):
    cls, logits = healthy(generator)
    return torch.ones_like(cls) + 1e-4 * cls, logits


def test_a_healthy_teacher_raises_no_alarm():
    report, alarms = watched(healthy)
    assert alarms == {}
    assert report["teacher_entropy"] > 0.95 * math.log(NUM_PROTOTYPES)
    assert report["effective_rank"] > 100


@pytest.mark.parametrize(
    ("broken", "alarm"), [(one_prototype_wins, "teacher_entropy"), (all_images_on_one_point, "effective_rank")]
)
def test_a_collapse_is_heard_under_its_own_name(broken, alarm):
    _, alarms = watched(broken)
    assert list(alarms) == [alarm]


def test_sinkhorn_hides_from_the_targets_what_the_monitor_sees():
    """With one prototype winning every image the targets still look even: they are the wrong place to look."""
    cls, logits = one_prototype_wins(torch.Generator().manual_seed(0))
    probs = targets(cls, logits).cls_probs.flatten(0, 1).mean(0)
    assert -torch.xlogy(probs, probs).sum() > 0.95 * math.log(NUM_PROTOTYPES)
    assert watched(one_prototype_wins)[0]["teacher_entropy"] < 0.2


def test_numbers_that_are_not_finite_are_an_alarm_and_not_a_crash():
    def broken(generator):
        cls, logits = healthy(generator)
        return cls * math.nan, logits

    report, alarms = watched(broken, steps=1)
    assert math.isnan(report["effective_rank"]) and "effective_rank" in alarms
    assert "cls_loss" in CollapseMonitor(4, 4, torch.device("cpu")).alarms(report, cls_loss=math.nan)


def test_a_monitor_that_is_put_back_reports_the_same():
    generator = torch.Generator().manual_seed(0)
    before, after = (CollapseMonitor(NUM_PROTOTYPES, WIDTH, torch.device("cpu")) for _ in range(2))
    before.observe([targets(*healthy(generator))])
    after.load_state(before.state())
    following = targets(*healthy(generator))
    before.observe([following])
    after.observe([following])
    assert before.report() == after.report()
