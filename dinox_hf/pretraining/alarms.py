"""When a run is not healthy, by which number, and what to do: see docs/monitor.md for every alarm."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FIRST_STEPS = 10  # say nothing about a run, not even one without a warm-up

# Each limit is a statement about what a number means; none is fitted to a run.
_FLAT_CONTRAST = 0.05  # of ImageNet's deviation: 1 % of a window, 17 HU in a lung window, is less than the noise of CT
_BOLD_UPDATE = 0.05  # twenty such steps are as long as the weights
_SCATTERED = 0.5  # of the student's length: weights so far apart have no meaningful average
_LEAST_LAG = 0.5  # updates: a teacher that averages over two steps or more lies further behind
_FEW_WINNERS = 0.02  # of the prototypes that could win; one is always few
_SHARP = math.log(2)  # nats below log K: half of the prototypes are out, so that winning means something
_USED_SHARE = 0.5  # of log K: as if only sqrt(K) prototypes existed
_HARD = 0.4  # nats, 1.5 prototypes an image: a class label, with nothing in it about likeness
_FLAT = 0.002  # nats below log K: 99.8 % of the prototypes, whatever the image
_FEW_DIRECTIONS = (5.0, 0.05)  # directions, or this share of the width where that is less
_STEEP = 100  # times max_grad_norm: less than a hundredth of the gradient gets through the clip
_WORSE_THAN_GUESSING = 0.5  # nats above log K, the loss of a student that calls all prototypes alike
_REDRAWN = 0.3  # mean change of a cosine: the map of which patches are alike is another one


@dataclass(frozen=True)
class Limits:
    """What the healthy range of a run's numbers depends on."""

    log_k: float  # nats, of the DINO head's prototypes
    num_prototypes: int
    num_queued: int  # CLS tokens that prototype use is counted over
    width: int  # of the backbone
    max_grad_norm: float
    is_warm: bool  # early in a run everything looks collapsed: only broken data is worth a word
    is_anchored: bool  # Gram anchoring pulls with its full weight


Numbers = dict[str, float]


@dataclass(frozen=True)
class Rule:
    """One alarm: when it sounds and what it says."""

    name: str
    is_broken: Callable[[Numbers, Limits], bool]
    message: Callable[[Numbers, Limits], str]
    unless: tuple[str, ...] = ()  # alarms that explain this one: advice goes to the cause
    needs_warm_up: bool = True


def find_alarms(numbers: Numbers, limits: Limits) -> dict[str, str]:
    """What is wrong, in words and with advice, causes first; empty for a healthy run.

    A number that is not finite, or that was not measured, is compared with nothing: `loss_diverges` speaks for it.
    """
    found: dict[str, str] = {}
    for rule in RULES:
        is_due = limits.is_warm or not rule.needs_warm_up
        if is_due and not found.keys() & set(rule.unless) and rule.is_broken(numbers, limits):
            found[rule.name] = rule.message(numbers, limits)
    return found


class AlarmBell:
    """Which alarms sound, and for how many logs in a row; what begins and what is over."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(ALARMS, 0)

    def ring(self, found: dict[str, str]) -> tuple[list[str], list[str]]:
        """Take note of one log's alarms; returns the names of those that begin now and of those that are over."""
        begun = [name for name in found if self.counts[name] == 0]
        over = [name for name, count in self.counts.items() if count and name not in found]
        self.counts = {name: count + 1 if name in found else 0 for name, count in self.counts.items()}
        return begun, over

    def longest(self) -> tuple[str, int]:
        """The alarm that has sounded for the most logs in a row, and for how many."""
        return max(self.counts.items(), key=lambda item: item[1])

    def state(self) -> dict[str, Tensor]:
        """Counts that a resumed run goes on from."""
        return {f"alarm.{name}": torch.tensor(count) for name, count in self.counts.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`; an alarm that the checkpoint does not know is silent."""
        self.counts = {name: int(tensors.get(f"alarm.{name}", 0)) for name in ALARMS}


def _is_flat(numbers: Numbers, _: Limits) -> bool:
    return numbers["probe/contrast"] < _FLAT_CONTRAST


def _is_bold(numbers: Numbers, _: Limits) -> bool:
    return numbers["update_ratio"] > _BOLD_UPDATE or numbers["teacher_distance"] > _SCATTERED


def _is_no_average(numbers: Numbers, _: Limits) -> bool:
    return numbers["teacher_distance"] < _LEAST_LAG * numbers["update_ratio"]


def _wins_everything(numbers: Numbers, limits: Limits) -> bool:
    could_win = min(limits.num_prototypes, limits.num_queued)
    is_sharp = numbers["probe/teacher_entropy"] < limits.log_k - _SHARP
    # Half a prototype more, since a share times a count is whole only up to rounding.
    has_few = numbers["prototype_usage"] * could_win < max(1, _FEW_WINNERS * could_win) + 0.5
    return (is_sharp and has_few) or numbers["teacher_entropy"] < _USED_SHARE * limits.log_k


def _is_hard(numbers: Numbers, limits: Limits) -> bool:
    return numbers["probe/teacher_entropy"] < _HARD


def _is_undecided(numbers: Numbers, limits: Limits) -> bool:
    return numbers["probe/teacher_entropy"] > limits.log_k - _FLAT


def _least_rank(limits: Limits) -> float:
    directions, share = _FEW_DIRECTIONS
    return min(directions, share * limits.width)


def _cls_has_collapsed(numbers: Numbers, limits: Limits) -> bool:
    return min(numbers["effective_rank"], numbers["probe/cls_rank"]) < _least_rank(limits)


def _patches_have_collapsed(numbers: Numbers, limits: Limits) -> bool:
    return numbers["probe/patch_rank"] < _least_rank(limits)


def _steepest(numbers: Numbers) -> float:
    return max((value for name, value in numbers.items() if name.startswith("grad_norm/")), default=0.0)


def _is_steep(numbers: Numbers, limits: Limits) -> bool:
    return _steepest(numbers) > _STEEP * limits.max_grad_norm


def _diverges(numbers: Numbers, limits: Limits) -> bool:
    loss = numbers["cls_loss"]
    return not math.isfinite(loss) or loss > limits.log_k + _WORSE_THAN_GUESSING


def _has_drifted(numbers: Numbers, limits: Limits) -> bool:
    return limits.is_anchored and numbers["probe/gram_drift"] > _REDRAWN


# Causes stand before what they explain.
RULES = (
    Rule(
        "images_alike",
        _is_flat,
        lambda n, _: (
            f"probe/contrast is {n['probe/contrast']:.3f}: the slices are all alike, or have nothing in them, after "
            f"windowing. Look at pictures/; check intensity.windows against the HU of the set, and how it was built."
        ),
        needs_warm_up=False,
    ),
    Rule(
        "lr_too_high",
        _is_bold,
        lambda n, _: (
            f"update_ratio is {n['update_ratio']:.3f}, where 0.01 is much, and teacher_distance "
            f"{n['teacher_distance']:.2f}: steps are so long that the average of the weights means nothing. Lower "
            f"optimizer.lr, to a tenth at first, or lengthen optimizer.warmup_steps."
        ),
    ),
    Rule(
        "teacher_follows_student",
        _is_no_average,
        lambda n, _: (
            f"teacher_distance is {n['teacher_distance']:.1e}, less than half of one update "
            f"({n['update_ratio']:.1e}): the teacher copies the student and averages nothing. Raise teacher.momentum "
            f"to 0.99 or more."
        ),
    ),
    Rule(
        "few_prototypes",
        _wins_everything,
        lambda n, lim: (
            f"prototype_usage is {n['prototype_usage']:.3f} and teacher_entropy {n['teacher_entropy']:.2f} of at most "
            f"{lim.log_k:.2f} nats: few prototypes win all images. Raise teacher.temperature, lower optimizer.lr or "
            f"enlarge the batch; if it begins at once, check that targets go through Sinkhorn-Knopp."
        ),
    ),
    Rule(
        "hard_targets",
        _is_hard,
        lambda n, _: (
            f"probe/teacher_entropy is {n['probe/teacher_entropy']:.3f} nats: the teacher gives each image "
            f"{math.exp(n['probe/teacher_entropy']):.2f} prototypes, a class label without any likeness. Raise "
            f"teacher.temperature; the recipe uses 0.04 to 0.07."
        ),
        unless=("images_alike", "few_prototypes"),
    ),
    Rule(
        "flat_targets",
        _is_undecided,
        lambda n, lim: (
            f"probe/teacher_entropy is {n['probe/teacher_entropy']:.3f} of {lim.log_k:.3f} nats: the teacher calls "
            f"all prototypes alike, whatever the image, and the student has nothing to learn. Lower "
            f"teacher.temperature well below losses.student_temperature; with a small set, take fewer prototypes."
        ),
        unless=("images_alike", "lr_too_high"),
    ),
    Rule(
        "cls_collapse",
        _cls_has_collapsed,
        lambda n, lim: (
            f"effective_rank is {n['effective_rank']:.1f} and probe/cls_rank {n['probe/cls_rank']:.1f} of {lim.width} "
            f"dimensions: CLS tokens lie on few directions. Raise losses.koleo, lower optimizer.lr, or check that the "
            f"slices differ."
        ),
        unless=("images_alike", "lr_too_high"),
    ),
    Rule(
        "patch_collapse",
        _patches_have_collapsed,
        lambda n, lim: (
            f"probe/patch_rank is {n['probe/patch_rank']:.1f} of {lim.width} dimensions: patch tokens hardly differ "
            f"from each other. Raise losses.ibot, lower optimizer.lr, or begin Gram anchoring (gram.first_step) "
            f"earlier."
        ),
        unless=("images_alike", "lr_too_high"),
    ),
    Rule(
        "gradient_explodes",
        _is_steep,
        lambda n, lim: (
            f"grad_norm is {_steepest(n):.0f}, over {_STEEP} times optimizer.max_grad_norm ({lim.max_grad_norm:g}): "
            f"the clip leaves next to nothing. Lower optimizer.lr or lengthen optimizer.warmup_steps."
        ),
    ),
    Rule(
        "loss_diverges",
        _diverges,
        lambda n, lim: (
            f"cls_loss is {n['cls_loss']:.2f}, and {lim.log_k:.2f} for a student that only guesses: it unlearns. "
            f"Lower optimizer.lr, or raise teacher.momentum so that targets move more slowly."
        ),
    ),
    Rule(
        "gram_drift",
        _has_drifted,
        lambda n, _: (
            f"probe/gram_drift is {n['probe/gram_drift']:.2f}: patches are alike in other places than in the gram "
            f"teacher. Raise gram.weight or lower optimizer.lr."
        ),
        unless=("lr_too_high",),
    ),
)
ALARMS = tuple(rule.name for rule in RULES)
SKIPPED = "skipped_step"  # written to alarms.jsonl as well, by step and not by log
