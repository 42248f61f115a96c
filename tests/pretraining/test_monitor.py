"""What the monitor reads on a teacher that is healthy or broken on purpose."""

import math

import pytest
import torch
from torch import nn

from dinox_hf.losses.sinkhorn import sinkhorn_knopp
from dinox_hf.pretraining.monitor import CollapseMonitor
from dinox_hf.pretraining.self_distillation import TeacherTargets
from tests.pretraining.test_no_host_sync import NoHostSync

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


def head(weight_of_first=1.0):
    """A linear head that gives each prototype a direction of its own, the first one as strongly as wanted."""
    head = nn.Linear(WIDTH, NUM_PROTOTYPES)
    nn.init.orthogonal_(head.weight)
    nn.init.zeros_(head.bias)
    head.bias.data[0] = weight_of_first - 1
    return head


def watched(make, steps=200, dino_head=None):
    """The monitor's report after some steps of a teacher."""
    generator = torch.Generator().manual_seed(0)
    monitor = CollapseMonitor(NUM_PROTOTYPES, WIDTH, torch.device("cpu"))
    for _ in range(steps):
        monitor.observe([targets(*make(generator))])
    return monitor.report(dino_head or head())


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


def test_a_healthy_teacher_uses_prototypes_and_directions():
    report = watched(healthy)
    assert report["teacher_entropy"] > 0.95 * math.log(NUM_PROTOTYPES)
    assert report["effective_rank"] > 100
    assert report["prototype_usage"] > 0.9


def test_each_collapse_shows_in_its_own_number():
    assert watched(one_prototype_wins)["teacher_entropy"] < 0.2
    assert watched(all_images_on_one_point)["effective_rank"] < 1.1


def test_prototype_usage_counts_the_prototypes_that_win_a_token():
    assert watched(healthy, dino_head=head(weight_of_first=1e3))["prototype_usage"] == 1 / NUM_PROTOTYPES
    # Sixteen tokens can be won by sixteen prototypes at most, and a healthy head gives them to nearly as many.
    few = watched(lambda generator: tuple(t[:, :8] for t in healthy(generator)), steps=1)
    assert 0.5 < few["prototype_usage"] <= 1


def test_sinkhorn_hides_from_the_targets_what_the_monitor_sees():
    """With one prototype winning every image the targets still look even: they are the wrong place to look."""
    cls, logits = one_prototype_wins(torch.Generator().manual_seed(0))
    probs = targets(cls, logits).cls_probs.flatten(0, 1).mean(0)
    assert -torch.xlogy(probs, probs).sum() > 0.95 * math.log(NUM_PROTOTYPES)
    assert watched(one_prototype_wins)["teacher_entropy"] < 0.2


def test_one_broken_batch_does_not_blind_the_monitor():
    def broken(generator):
        cls, logits = healthy(generator)
        return cls * math.nan, logits * math.nan

    generator = torch.Generator().manual_seed(0)
    monitor = CollapseMonitor(NUM_PROTOTYPES, WIDTH, torch.device("cpu"))
    monitor.observe([targets(*healthy(generator))])
    dino_head = head()
    before = monitor.report(dino_head)
    monitor.observe([targets(*broken(generator))])
    after = monitor.report(dino_head)
    assert math.isnan(after.pop("target_entropy")) and before.pop("target_entropy") > 0
    assert after == before


def test_observing_never_waits_for_the_device():
    cls, logits = healthy(torch.Generator().manual_seed(0))
    target = targets(cls, logits)
    monitor = CollapseMonitor(NUM_PROTOTYPES, WIDTH, torch.device("cpu"))
    with NoHostSync():
        monitor.observe([target])
    with NoHostSync(), pytest.raises(RuntimeError, match="makes the host wait"):
        monitor.report(head())


def test_a_monitor_that_is_put_back_reports_the_same():
    generator = torch.Generator().manual_seed(0)
    before, after = (CollapseMonitor(NUM_PROTOTYPES, WIDTH, torch.device("cpu")) for _ in range(2))
    before.observe([targets(*healthy(generator))])
    after.load_state(before.state())
    following = targets(*healthy(generator))
    before.observe([following])
    after.observe([following])
    dino_head = head()
    assert before.report(dino_head) == after.report(dino_head)
