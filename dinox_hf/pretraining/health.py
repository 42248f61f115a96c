"""A run's health: every instrument read at one place, alarms to console and alarms.jsonl, and when to give up."""

import math
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.optim import Optimizer

from ..data.batches import PretrainBatch
from ..data.loader import PretrainLoader
from ..data.stream_loader import StreamLoader
from .alarms import FIRST_STEPS, SKIPPED, AlarmBell, Limits, find_alarms
from .config import PretrainConfig
from .monitor import CollapseMonitor
from .probe_batch import ProbeBatch
from .self_distillation import SelfDistillation, TeacherTargets
from .sharding import at_hand
from .skipped_steps import SkippedSteps, in_words, slice_names
from .step_size import teacher_distance, update_ratio
from .tracking import JsonLines


class Health:
    """Instruments and alarms of one run.

    Args:
        config: of the run.
        accelerator: of the run; all processes read the instruments, the first one speaks.
        model: not wrapped.
        optimizer: the student's, not wrapped.
        loader: knows which slices a row stands for.
        probe: the fixed slices.
        say: called with one line for people.
    """

    def __init__(
        self,
        config: PretrainConfig,
        accelerator: Accelerator,
        model: SelfDistillation,
        optimizer: Optimizer,
        loader: PretrainLoader | StreamLoader,
        probe: ProbeBatch,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.accelerator, self.model, self.optimizer = config, accelerator, model, optimizer
        self.loader, self.probe, self.say = loader, probe, say
        width = model.teacher.backbone.config.hidden_size
        self.monitor = CollapseMonitor(config.dino_head.num_prototypes, width, accelerator.device)
        self.skipped, self.bell = SkippedSteps(), AlarmBell()
        self.parts = (self.monitor, self.probe, self.skipped, self.bell)

    def open(self, folder: Path, last_step: int) -> None:
        """Where alarms are written; on the first process only."""
        self.file = JsonLines(folder / "alarms.jsonl", last_step)

    def observe(
        self, step: int, micro_batches: list[PretrainBatch], targets: list[TeacherTargets], is_finite: Tensor
    ) -> None:
        """See one step; no host synchronisation."""
        self.monitor.observe(targets)
        self.skipped.watch(step, is_finite, [batch.rows for batch in micro_batches])

    def measure(self, step: int, teacher_temperature: float) -> dict[str, float]:
        """Read all instruments after update `step`; every process has to ask, and waits for its device.

        Raises:
            RuntimeError: too many steps in a row were skipped.
        """
        self.settle()
        with self.accelerator.autocast(), at_hand(self.model):
            seen = self.monitor.report(self.model.teacher.dino_head)
            probed = self.probe.report(self.model, step, teacher_temperature)
        return {
            **seen,
            **probed,
            "teacher_distance": teacher_distance(self.model),
            "update_ratio": update_ratio(self.optimizer),
            "skipped_steps": self.skipped.total,
        }

    def settle(self) -> None:
        """Count skipped steps and name their slices; before a checkpoint too, so that a resumed run counts the same.

        Raises:
            RuntimeError: as many in a row as `monitor.max_skipped_steps`.
        """
        for skipped in self.skipped.settle():
            names = gather_object(slice_names(self.loader, skipped.rows))
            message = f"the gradient of step {skipped.step + 1} was not finite; the step was skipped"
            self._write({"step": skipped.step + 1, "alarm": SKIPPED, "message": message, "slices": names})
            self._say(f"SKIPPED: {message}. Its slices: {in_words(names)} (all of them in alarms.jsonl).")
        if self.skipped.longest >= self.config.monitor.max_skipped_steps:
            raise RuntimeError(
                f"Expected finite gradients; found {self.skipped.longest} steps in a row without, which were all "
                f"skipped. Nothing broken was saved. Look for what their slices in {self.config.output}/alarms.jsonl "
                f"have in common; lower optimizer.lr or set precision: no, and go on from the last checkpoint with "
                f"--resume."
            )

    def sound(self, step: int, numbers: dict[str, float]) -> None:
        """Say each alarm once, when it begins, and when it is over.

        Raises:
            RuntimeError: one has sounded at `monitor.stop_on_alarm` logs in a row.
        """
        found = find_alarms(numbers, self._limits(step))
        begun, over = self.bell.ring(found)
        for name in begun:
            self._write({"step": step + 1, "alarm": name, "state": "begins", "message": found[name]})
            self._say(f"ALARM {name} at step {step + 1}: {found[name]}")
        for name in over:
            self._write({"step": step + 1, "alarm": name, "state": "over"})
            self._say(f"All clear at step {step + 1}: {name} is over.")
        self._stop_on_alarm(step, found)

    def state(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs to report the same numbers and sound the same alarms."""
        return {name: tensor for part in self.parts for name, tensor in part.state().items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for part in self.parts:
            part.load_state(tensors)

    def _limits(self, step: int) -> Limits:
        num_prototypes = self.config.dino_head.num_prototypes
        return Limits(
            log_k=math.log(num_prototypes),
            num_prototypes=num_prototypes,
            num_queued=self.monitor.num_queued,
            width=self.model.teacher.backbone.config.hidden_size,
            max_grad_norm=self.config.optimizer.max_grad_norm,
            is_warm=step >= max(self.config.optimizer.warmup_steps, FIRST_STEPS),
            is_anchored=self.probe.is_anchored(step),
        )

    def _stop_on_alarm(self, step: int, found: dict[str, str]) -> None:
        limit = self.config.monitor.stop_on_alarm
        if limit is None:
            return
        name, count = self.bell.longest()
        # Each process sees its own crops; the first one decides, so that none is left waiting for the others.
        decision = [f"{name} for {count} logs in a row ({found[name]})" if count >= limit else None]
        broadcast_object_list(decision)
        if decision[0]:
            raise RuntimeError(
                f"Expected a healthy run, since monitor.stop_on_alarm is {limit}; found the alarm {decision[0]} at "
                f"step {step + 1}. This step was not saved: start again with the advice, or go on from the last "
                f"checkpoint with --resume --monitor.stop_on_alarm=null."
            )

    def _write(self, record: dict[str, object]) -> None:
        if self.accelerator.is_main_process:
            self.file.append(record)

    def _say(self, line: str) -> None:
        if self.accelerator.is_main_process:
            self.say(line)
