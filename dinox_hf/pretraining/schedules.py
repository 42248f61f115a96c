"""Numbers that change over a run, each a pure function of the step: nothing to store, nothing to resume."""

import math
from dataclasses import asdict, dataclass

from .config import PretrainConfig


@dataclass(frozen=True)
class StepValues:
    """Everything that moves, at one step."""

    lr: float  # of a parameter whose multiplier is 1, batch factor included
    last_layer_lr: float  # of the prototypes: 0 while they rest
    weight_decay: float
    max_grad_norm: float
    ema_momentum: float
    teacher_temperature: float
    local_weight: float  # factor of the local crops' share of the DINO term
    gram_weight: float
    refresh_gram_teacher: bool  # after this step's update

    def scalars(self) -> dict[str, float]:
        """The values worth plotting."""
        return {name: value for name, value in asdict(self).items() if name != "refresh_gram_teacher"}


class Schedule:
    """schedule(step) -> StepValues, step counting updates from 0."""

    def __init__(self, config: PretrainConfig, images_per_step: int) -> None:
        self.config = config
        self.lr_factor = lr_factor(config.optimizer.lr_scaling, images_per_step)

    def __call__(self, step: int) -> StepValues:
        """Look up every value of a step once."""
        optimizer, teacher = self.config.optimizer, self.config.teacher
        lr = self.lr_factor * self._lr(step)
        return StepValues(
            lr=lr,
            last_layer_lr=0.0 if step < optimizer.freeze_last_layer_steps else lr,
            weight_decay=self._cosine(step, optimizer.weight_decay, optimizer.weight_decay_end),
            max_grad_norm=optimizer.max_grad_norm,
            ema_momentum=self._cosine(step, teacher.momentum, teacher.momentum_end),
            teacher_temperature=constant_with_warmup(
                step,
                peak=teacher.temperature,
                warmup_steps=teacher.temperature_warmup_steps,
                start=teacher.temperature_start,
            ),
            local_weight=self._from_gram_on(step, self.config.losses.local, self.config.losses.local_end),
            gram_weight=self._from_gram_on(step, 0.0, self.config.gram.weight),
            refresh_gram_teacher=self._is_gram_refresh(step),
        )

    def _lr(self, step: int) -> float:
        """Before the factor of the batch: a climb, then a cosine or the peak."""
        optimizer = self.config.optimizer
        if step < optimizer.warmup_steps and optimizer.warmup == "cosine":
            return ramp(step, before=0.0, after=optimizer.lr, begin_step=0, num_steps=optimizer.warmup_steps)
        end = optimizer.lr if optimizer.schedule == "constant" else optimizer.lr_end
        return self._cosine(step, optimizer.lr, end, optimizer.warmup_steps)

    def _cosine(self, step: int, peak: float, end: float, warmup_steps: int = 0) -> float:
        total = self.config.steps
        return linear_warmup_cosine(step, start=0.0, peak=peak, end=end, warmup_steps=warmup_steps, total_steps=total)

    def _from_gram_on(self, step: int, before: float, after: float) -> float:
        gram = self.config.gram
        if gram.first_step is None:
            return before
        return ramp(step, before=before, after=after, begin_step=gram.first_step, num_steps=gram.ramp_steps)

    def _is_gram_refresh(self, step: int) -> bool:
        """True after the update before `first_step`, then every `refresh_every` updates, `max_refreshes` times."""
        gram = self.config.gram
        if gram.first_step is None or step + 1 < gram.first_step:
            return False
        count, remainder = divmod(step + 1 - gram.first_step, gram.refresh_every)
        return remainder == 0 and count <= gram.max_refreshes


def linear_warmup_cosine(
    step: int,
    *,
    start: float,
    peak: float,
    end: float,
    warmup_steps: int,
    total_steps: int,
    cosine_steps: int | None = None,
) -> float:
    """Climb straight from start to peak, swing down to end on half a cosine, stay there: DINOv3's schedule.

    The first warm-up step has `start`, the first step after it `peak`, the last of the cosine `end`.

    Args:
        step: the update, from 0.
        start: value of step 0, if there is a warm-up.
        peak: value after the warm-up.
        end: value after the cosine; equal to `peak` for a constant.
        warmup_steps: steps of the climb.
        total_steps: length of the run; where the cosine ends unless `cosine_steps` says otherwise.
        cosine_steps: steps of the cosine; 0 jumps to `end`.

    Returns:
        the value at this step.
    """
    if step < warmup_steps:
        return start + (peak - start) * step / warmup_steps
    if cosine_steps is None:
        cosine_steps = total_steps - warmup_steps
    cosine_step = step - warmup_steps
    if cosine_step >= cosine_steps:
        return end
    return end + (peak - end) * _half_cosine(cosine_step, cosine_steps)


def cosine_v1(
    step: int,
    *,
    base: float,
    final: float,
    total_steps: int,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    freeze_steps: int = 0,
    truncate_extra: float = 0.0,
) -> float:
    """Zero, climb, half a cosine, then constant: the schedule of DINOv2, still used by DINOv3's ImageNet run.

    It differs from `linear_warmup_cosine` at the joints: `base` is reached on the last warm-up step, and `final` only
    on the step after the cosine.

    Args:
        step: the update, from 0.
        base: value after the warm-up.
        final: value from `total_steps` on.
        total_steps: freeze, warm-up and cosine together.
        warmup_steps: steps of the climb.
        warmup_start: its first value.
        freeze_steps: steps at 0 before the climb.
        truncate_extra: plan the cosine for this share of steps more, cut it off, and stretch what is left to reach
            `final`: the value then falls more steeply at the end.

    Returns:
        the value at this step.
    """
    if step < freeze_steps:
        return 0.0
    if step >= total_steps:
        return final
    warmup_step, cosine_step = step - freeze_steps, step - freeze_steps - warmup_steps
    if cosine_step < 0:
        return warmup_start + (base - warmup_start) * warmup_step / max(warmup_steps - 1, 1)
    cosine_steps = total_steps - warmup_steps - freeze_steps
    if truncate_extra == 0:
        return final + (base - final) * _half_cosine(cosine_step, cosine_steps + 1)
    planned_steps = int((1 + truncate_extra) * cosine_steps)
    lowest = _half_cosine(cosine_steps - 1, planned_steps)
    return final + (base - final) * (_half_cosine(cosine_step, planned_steps) - lowest) / (1 - lowest)


def constant_with_warmup(step: int, *, peak: float, warmup_steps: int, start: float = 0.0) -> float:
    """Climb straight from start to peak, then stay: learning rate and teacher temperature of DINOv3's long runs.

    Args:
        step: the update, from 0.
        peak: value from step `warmup_steps` on.
        warmup_steps: steps of the climb.
        start: value of step 0, if there is a warm-up.

    Returns:
        the value at this step.
    """
    return start + (peak - start) * step / warmup_steps if step < warmup_steps else peak


def ramp(step: int, *, before: float, after: float, begin_step: int, num_steps: int) -> float:
    """Hold one value, change to another on half a cosine, hold that: how a loss weight comes in or goes out mid-run.

    DINOv3's gram stage raises the gram weight 0 -> 2 and lowers the local weight 1 -> 0.5 so. It is
    `linear_warmup_cosine` with a level start, which makes it a cosine although the paper calls it linear.

    Args:
        step: the update, from 0.
        before: value up to and including `begin_step`.
        after: value from `begin_step + num_steps - 1` on; with `num_steps` 0 from `begin_step` on.
        begin_step: first step of the change.
        num_steps: steps of the change.

    Returns:
        the value at this step.
    """
    return linear_warmup_cosine(
        step,
        start=before,
        peak=before,
        end=after,
        warmup_steps=begin_step,
        total_steps=begin_step + num_steps,
        cosine_steps=num_steps,
    )


def lr_factor(rule: str, batch_size: int) -> float:
    """Factor by which learning rates grow with the number of images in one update.

    Args:
        rule: "sqrt_wrt_1024" is 4 x sqrt(batch_size / 1024), the recipe's; "linear_wrt_256" is batch_size / 256;
            "none" is 1, the learning rate as written.
        batch_size: images per update, over all ranks and accumulated micro-batches.

    Returns:
        the factor, for peak and end alike.

    Raises:
        ValueError: for another rule.
    """
    rules = {"sqrt_wrt_1024": 4 * math.sqrt(batch_size / 1024), "linear_wrt_256": batch_size / 256, "none": 1.0}
    if rule not in rules:
        raise ValueError(
            f"lr_factor expects one of the rules {', '.join(rules)}; found {rule!r}. "
            f"Use 'none' to take the learning rate as written."
        )
    return rules[rule]


def _half_cosine(step: int, num_steps: int) -> float:
    """Fall from 1 at step 0 to 0 at step `num_steps - 1`."""
    return (1 + math.cos(math.pi * step / max(num_steps - 1, 1))) / 2
