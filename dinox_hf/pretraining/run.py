"""One run from its folder's point of view: what is due at a step, logs, pictures, checkpoints, resuming."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm
from transformers.image_utils import PILImageResampling

from ..data.batches import PretrainBatch
from ..data.durable_files import delete_unfinished
from ..data.loader import PretrainLoader
from ..data.stream_loader import StreamLoader
from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from .checkpoint import load_checkpoint, save_checkpoint
from .checkpoint_folders import set_newer_aside
from .config import PretrainConfig
from .health import Health
from .pictures import draw_slices, teacher_view
from .probe_batch import ProbeBatch, probe_inputs
from .run_record import refuse_other_batch, refuse_other_data, write_run_yaml
from .self_distillation import SelfDistillation, TeacherTargets
from .sharding import at_hand
from .signals import StopSignals
from .speed import SpeedMeter
from .tracking import JsonLines, log_picture, start_trackers

_NUM_PICTURE_SLICES = 6


def reseed(seed: int, step: int, rank: int) -> None:
    """Draws on the device (stochastic depth) depend on (seed, step, rank) alone, so a resumed run repeats them."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def hint_at_idle_cores(accelerator: Accelerator) -> None:
    """Say so where cores would look on: `accelerate launch` gives a process one thread unless told otherwise."""
    cores, threads = os.cpu_count() or 1, torch.get_num_threads() * accelerator.num_processes
    if accelerator.device.type == "cpu" and threads < cores:
        accelerator.print(
            f"{threads} of {cores} cores compute. To use all: accelerate launch --config_file "
            f"accelerate_configs/cpu.yaml …, or set OMP_NUM_THREADS={cores // accelerator.num_processes}."
        )


def image_processor(config: PretrainConfig) -> Dinov3CTImageProcessor:
    """The processor published with the backbone: the run's windows and scale, resampled as its crops were.

    Crops of whole slices are shown again as whole slices of a crop's size. Crops of a field of some millimetres tell
    how large a pixel is, when a crop covers the field; the global crops of `global_scale` reach down from there.
    """
    side, field_mm = config.crops.global_size, config.crops.field_mm
    return Dinov3CTImageProcessor(
        channels=config.intensity.channels,
        hu_windows=[list(window) for window in config.intensity.windows],
        size={"height": side, "width": side},
        resample=PILImageResampling.BICUBIC,
        do_resize=field_mm is None,
        pixel_mm=None if field_mm is None else field_mm / side,
    )


class Run:
    """What happens around the steps. The training script asks what is due; this does it."""

    def __init__(
        self,
        config: PretrainConfig,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: Optimizer,
        loader: PretrainLoader | StreamLoader,
        checkpoint: Path | None = None,
        origin: dict[str, object] | None = None,
    ) -> None:
        self.config, self.accelerator, self.loader = config, accelerator, loader
        self.origin = origin  # of the first weights, for run.yaml; None: a random draw
        self.model: SelfDistillation = accelerator.unwrap_model(model)
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.folder = Path(config.output)
        self.processor = image_processor(config)
        self.fixed_slices, self.fixed_spacing_mm = self._fixed_slices()
        self.health = Health(config, accelerator, self.model, self.optimizer, loader, self._probe(), self._say)
        self.signals = StopSignals(self._say)
        self.first_step = 0
        if checkpoint is not None:
            refuse_other_data(self.folder, loader)
            if note := refuse_other_batch(self.folder, loader):
                accelerator.print(note)
            self.first_step, extra = load_checkpoint(checkpoint, self.model, self.optimizer)
            self.health.load_state(extra)
        _refuse_different_steps(gather_object([self.first_step]))
        accelerator.wait_for_everyone()  # all have read run.yaml, which the first process writes anew
        self._open_folder()
        self.speed = SpeedMeter(loader.settings.images_per_step, self.first_step)

    def steps(self) -> Iterator[tuple[int, list[PretrainBatch]]]:
        """(step, its micro-batches on the device), from where the run stands to its end or to a signal."""
        batches = self.loader.steps(self.first_step)
        with self.signals.listening():
            for step in self.progress:
                with self.speed.waiting_for_data():
                    micro_batches = [batch.to(self.accelerator.device) for batch in next(batches)]
                yield step, micro_batches
                if self._is_stopped(step):
                    self.save(step)
                    break

    def due(self, what: str, step: int) -> bool:
        """Is `log`, `save` or `picture` due after this step? The last step is due for all, the first for logging."""
        every = {"log": self.config.log_every, "save": self.config.save_every, "picture": self.config.picture_every}
        is_first_log = what == "log" and step == 0
        return (step + 1) % every[what] == 0 or step + 1 == self.config.steps or is_first_log

    def watch(
        self, step: int, micro_batches: list[PretrainBatch], metrics: dict[str, Tensor], targets: list[TeacherTargets]
    ) -> None:
        """Let the instruments see a step; they read nothing back before the next log."""
        self.health.observe(step, micro_batches, targets, metrics["is_finite"])

    def log(self, step: int, metrics: dict[str, Tensor | float]) -> None:
        """The only place where the host waits for the device: numbers to file, trackers and progress bar.

        Raises:
            RuntimeError: too many steps in a row were skipped, or an alarm has sounded for as long as was allowed.
        """
        values = self._means(metrics)
        measured = self.health.measure(step, values["teacher_temperature"])
        record = {"step": step + 1, **values, **measured, **self.speed.report(step + 1)}
        if self.accelerator.is_main_process:
            self.metrics_file.append(record)
            self.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=step + 1)
            self.progress.set_postfix_str(self._in_short(record))
        self.health.sound(step, record)

    def picture(self, step: int) -> None:
        """Fixed slices, where the teacher looks in them and what it tells apart; into the folder and the trackers."""
        # All processes look, as each may hold only a part of the weights; the first one draws.
        with at_hand(self.model):
            view = teacher_view(self.model.teacher.backbone, self.fixed_slices, self.fixed_spacing_mm)
        if self.accelerator.is_main_process:
            path = self.folder / "pictures" / f"step_{step + 1:08d}.png"
            picture = draw_slices(path, self.fixed_slices, view, f"teacher after {step + 1} steps")
            log_picture(self.accelerator, "pictures/teacher", picture, step + 1)

    def save(self, step: int) -> None:
        """A checkpoint after this step; does nothing if this step has one already.

        Raises:
            RuntimeError: too many steps in a row were skipped, or the disk refused.
        """
        if self.saved_step == step + 1:
            return
        self.health.settle()
        if self.accelerator.is_main_process:
            self.metrics_file.flush()
            self.health.file.flush()
        save_checkpoint(
            self.folder,
            step + 1,
            self.model,
            self.optimizer,
            self.processor,
            keep=self.config.keep_checkpoints,
            keep_every=self.config.keep_every,
            extra=self.health.state(),
            is_writer=self.accelerator.is_main_process,
        )
        self.saved_step = step + 1

    def finish(self) -> None:
        """Say where things are."""
        self.progress.close()
        if not self.accelerator.is_main_process:
            return
        if self.signals.received:
            print(
                f"Stopped by {self.signals.received} after step {self.saved_step}; the same command with --resume "
                f"goes on."
            )
        print(f"Run folder: {self.folder} (run.yaml, metrics.jsonl, alarms.jsonl, pictures/, checkpoints/)")

    def _means(self, metrics: dict[str, Tensor | float]) -> dict[str, float]:
        """Plain floats; what each process has its own of, such as its slices' losses, is averaged over all of them."""
        own = {name: value.float() for name, value in metrics.items() if isinstance(value, Tensor)}
        joint = self.accelerator.reduce(torch.stack(list(own.values())), reduction="mean")
        return metrics | dict(zip(own, joint.tolist(), strict=True))

    def _in_short(self, record: dict[str, float]) -> str:
        """What stands behind the progress bar, which itself shows steps, time gone and time left."""
        return (
            f"cls loss {record['cls_loss']:.3f} of log K {math.log(self.config.dino_head.num_prototypes):.2f}, "
            f"rank {record['effective_rank']:.0f}, {record['images_per_second']:.3g} images/s, "
            f"{record['memory_gb']:.1f} GB"
        )

    def _open_folder(self) -> None:
        self.saved_step = self.first_step if self.first_step else None
        main = self.accelerator.is_main_process
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            delete_unfinished(self.folder)
            set_newer_aside(self.folder, self.first_step, print)
            write_run_yaml(
                self.folder, self.config, self.accelerator, self.model.student.backbone, self.loader, self.origin
            )
            self.metrics_file = JsonLines(self.folder / "metrics.jsonl", self.first_step)
            self.health.open(self.folder, self.first_step)
        start_trackers(self.accelerator, self.folder, is_resumed=self.first_step > 0)
        steps = range(self.first_step, self.config.steps)
        self.progress = tqdm(
            steps, initial=self.first_step, total=self.config.steps, desc="pretrain", unit="step", disable=not main
        )

    def _say(self, line: str) -> None:
        """A line above the progress bar."""
        self.progress.write(line)

    def _fixed_slices(self) -> tuple[Tensor, Tensor]:
        """The same few slices of the set at every picture, whole, as the image processor hands them to the network.

        Returns:
            pixel_values (B, 3, S, S) and spacing_mm (B, 2), on the device.
        """
        side = 2 * self.config.crops.global_size
        prepared = []
        for example in self.loader.examples(_NUM_PICTURE_SLICES):
            image = example.slices_hu if self.processor.channels == "neighbours" else example.slices_hu[0]
            size = {"height": side, "width": side}
            given = {"spacing_mm": example.spacing_yx_mm, "padding_hu": example.padding_hu}
            prepared.append(self.processor(image, size=size, return_tensors="pt", **given))
        names, device = ("pixel_values", "spacing_mm"), self.accelerator.device
        return tuple(torch.cat([each[name] for each in prepared]).to(device) for name in names)

    def _probe(self) -> ProbeBatch:
        """The fixed slices on which the instruments are read."""
        examples = self.loader.examples(min(self.config.monitor.probe_slices, self.loader.num_slices))
        pixel_values, spacing_mm = probe_inputs(examples, self.processor, self.config.crops)
        return ProbeBatch(pixel_values, self.config, self.accelerator.device, spacing_mm)

    def _is_stopped(self, step: int) -> bool:
        """True once a signal came. Several processes ask the first one, where they wait for the device anyway."""
        if self.accelerator.num_processes == 1:
            return self.signals.received is not None
        if not self.due("log", step):
            return False
        agreed = [self.signals.received]
        broadcast_object_list(agreed)
        # A signal may have come meanwhile: it must not be forgotten, and is agreed upon at the next log.
        self.signals.received = agreed[0] or self.signals.received
        return agreed[0] is not None


def _refuse_different_steps(steps: list[int]) -> None:
    """Each process looks for the newest checkpoint itself; a slow shared file system may show each another one."""
    if len(set(steps)) > 1:
        raise RuntimeError(
            f"Expected all processes to go on from the same step; found {steps}, by process. Wait until every machine "
            f"sees the same files in the run folder, then start again with --resume."
        )
