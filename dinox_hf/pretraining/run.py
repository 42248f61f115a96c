"""One run from its folder's point of view: run.yaml, what is due at a step, logs, checkpoints, signals, resuming."""

import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm
from transformers.image_utils import PILImageResampling

from ..data.loader import PretrainBatch, PretrainLoader
from ..model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from .checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from .config import PretrainConfig
from .config_file import flat, to_dict
from .monitor import CollapseMonitor
from .self_distillation import SelfDistillation, TeacherTargets
from .tracking import MetricsFile, draw_slices, patch_colours

Resume = Literal["never", "always", "auto"]

# Fields that may change when a run is resumed: none of them touches a number of the training.
_FREE_TO_CHANGE = {"log_every", "save_every", "keep_checkpoints", "picture_every", "trackers", "output", "data"}
_NUM_PICTURE_SLICES = 6


def reseed(seed: int, step: int, rank: int) -> None:
    """Draws on the device (stochastic depth) depend on (seed, step, rank) alone, so a resumed run repeats them."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


def resolve_precision(precision: str) -> str:
    """`auto` becomes bf16 where an accelerator computes in it, else float32 ("no")."""
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def hint_at_idle_cores(accelerator: Accelerator) -> None:
    """Say so where cores would look on: `accelerate launch` gives a process one thread unless told otherwise."""
    cores, threads = os.cpu_count() or 1, torch.get_num_threads() * accelerator.num_processes
    if accelerator.device.type == "cpu" and threads < cores:
        accelerator.print(
            f"{threads} of {cores} cores compute. To use all: accelerate launch --config_file "
            f"accelerate_configs/cpu.yaml …, or set OMP_NUM_THREADS={cores // accelerator.num_processes}."
        )


def image_processor(config: PretrainConfig) -> Dinov3CTImageProcessor:
    """The processor published with the backbone: the run's windows and crop size, resampled as its crops were."""
    side = config.crops.global_size
    return Dinov3CTImageProcessor(
        channels=config.intensity.channels,
        hu_windows=[list(window) for window in config.intensity.windows],
        size={"height": side, "width": side},
        resample=PILImageResampling.BICUBIC,
    )


def prepare_folder(config: PretrainConfig, resume: Resume = "never") -> Path | None:
    """Check the run folder before anything costs time; returns the checkpoint to continue from, if any.

    Raises:
        ValueError: the folder holds a run and `resume` is "never", or holds none and it is "always", or the run there
            was made with another configuration.
    """
    folder = Path(config.output)
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None and resume == "always":
        raise ValueError(
            f"--resume expects a complete checkpoint under {folder / 'checkpoints'}; found none. Start the run "
            f"without --resume, or name its folder with --output=…."
        )
    if checkpoint is not None and resume == "never":
        raise ValueError(
            f"Expected a new run folder; found {checkpoint.name} of an earlier run in {folder}. Continue it with "
            f"--resume, or write elsewhere with --output=…."
        )
    if checkpoint is not None:
        _refuse_other_configuration(config, folder / "run.yaml")
    return checkpoint


class Run:
    """What happens around the steps. The training script asks what is due; this does it."""

    def __init__(
        self,
        config: PretrainConfig,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: Optimizer,
        loader: PretrainLoader,
        checkpoint: Path | None = None,
    ) -> None:
        self.config, self.accelerator, self.loader = config, accelerator, loader
        self.model: SelfDistillation = accelerator.unwrap_model(model)
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.folder = Path(config.output)
        self.processor = image_processor(config)
        backbone = self.model.teacher.backbone.config
        self.monitor = CollapseMonitor(config.dino_head.num_prototypes, backbone.hidden_size, accelerator.device)
        self.first_step = 0
        if checkpoint is not None:
            _refuse_other_data(self.folder / "run.yaml", loader)
            self.first_step, extra = load_checkpoint(checkpoint, self.model, self.optimizer)
            self.monitor.load_state(extra)
        self.stop_signal: str | None = None
        self.sounding: set[str] = set()
        self._open_folder()
        self._restart_clock(self.first_step)

    def steps(self) -> Iterator[tuple[int, list[PretrainBatch]]]:
        """(step, its micro-batches on the device), from where the run stands to its end or to a signal."""
        batches = self.loader.steps(self.first_step)
        with self._listening_to_signals():
            for step in self.progress:
                waiting = time.perf_counter()
                micro_batches = [batch.to(self.accelerator.device) for batch in next(batches)]
                self.seconds_waiting += time.perf_counter() - waiting
                yield step, micro_batches
                if self._is_stopped(step):
                    self.save(step)
                    break

    def due(self, what: str, step: int) -> bool:
        """Is `log`, `save` or `picture` due after this step? The last step is due for all, the first for logging."""
        every = {"log": self.config.log_every, "save": self.config.save_every, "picture": self.config.picture_every}
        is_first_log = what == "log" and step == 0
        return (step + 1) % every[what] == 0 or step + 1 == self.config.steps or is_first_log

    def watch(self, targets: list[TeacherTargets]) -> None:
        """Let the collapse monitor see a step's targets."""
        self.monitor.observe(targets)

    def log(self, step: int, metrics: dict[str, Tensor | float]) -> None:
        """The only place where the host waits for the device: numbers to file, trackers and progress bar."""
        values = {name: float(value) for name, value in metrics.items()}
        report = self.monitor.report()
        record = {"step": step + 1, **values, **report, **self._speed(step)}
        self._restart_clock(step + 1)
        if not self.accelerator.is_main_process:
            return
        self.metrics_file.append(record)
        self.accelerator.log({name: value for name, value in record.items() if name != "step"}, step=step + 1)
        self.progress.set_postfix_str(
            f"cls loss {values['cls_loss']:.3f} of log K {math.log(self.config.dino_head.num_prototypes):.2f}, "
            f"rank {report['effective_rank']:.0f}, {record['images_per_second']:.0f} images/s"
        )
        self._sound_alarms(step, self.monitor.alarms(report, values["cls_loss"]))

    def picture(self, step: int) -> None:
        """Fixed slices and what the teacher tells apart in them."""
        if self.accelerator.is_main_process:
            colours = patch_colours(self.model.teacher.backbone, self.fixed_slices)
            path = self.folder / "pictures" / f"step_{step + 1:08d}.png"
            draw_slices(path, self.fixed_slices, colours, f"teacher after {step + 1} steps")

    def save(self, step: int) -> None:
        """A checkpoint after this step; does nothing if this step has one already."""
        if self.accelerator.is_main_process and self.saved_step != step + 1:
            extra = self.monitor.state()
            keep = self.config.keep_checkpoints
            save_checkpoint(self.folder, step + 1, self.model, self.optimizer, self.processor, keep, extra)
        self.saved_step = step + 1

    def finish(self) -> None:
        """Close the trackers and say where things are."""
        self.progress.close()
        self.accelerator.end_training()
        if not self.accelerator.is_main_process:
            return
        if self.stop_signal:
            print(
                f"Stopped by {self.stop_signal} after step {self.saved_step}; the same command with --resume goes on."
            )
        print(f"Run folder: {self.folder} (run.yaml, metrics.jsonl, pictures/, checkpoints/)")

    def _sound_alarms(self, step: int, alarms: dict[str, str]) -> None:
        """Say each alarm once, when it begins, and when it is over."""
        # Early in a run everything looks collapsed; an alarm before the end of the warm-up would cry wolf.
        if step < self.config.optimizer.warmup_steps:
            return
        for name in alarms.keys() - self.sounding:
            self.progress.write(f"ALARM at step {step + 1}: {alarms[name]}")
        for name in self.sounding - alarms.keys():
            self.progress.write(f"All clear at step {step + 1}: {name} has recovered.")
        self.sounding = set(alarms)

    def _open_folder(self) -> None:
        self.saved_step = self.first_step if self.first_step else None
        main = self.accelerator.is_main_process
        if main:
            self.folder.mkdir(parents=True, exist_ok=True)
            record = to_dict(self.config) | {"lineage": self._lineage()}
            (self.folder / "run.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
            self.metrics_file = MetricsFile(self.folder / "metrics.jsonl", self.first_step)
            self.fixed_slices = self._fixed_slices()
        if self.config.trackers:
            self.accelerator.init_trackers("tensorboard")
        steps = range(self.first_step, self.config.steps)
        self.progress = tqdm(
            steps, initial=self.first_step, total=self.config.steps, desc="pretrain", unit="step", disable=not main
        )

    def _lineage(self) -> dict[str, object]:
        backbone = self.model.student.backbone
        return {
            "dinox_hf_commit": _git_commit(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "device": str(self.accelerator.device.type),
            "precision": {"no": "float32"}.get(self.accelerator.mixed_precision, self.accelerator.mixed_precision),
            "num_processes": self.accelerator.num_processes,
            "images_per_step": self.loader.images_per_step,
            "backbone_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "data_fingerprint": self.loader.slices.fingerprint,
            "data_num_slices": len(self.loader.slices),
        }

    def _fixed_slices(self) -> Tensor:
        """The same few slices of the set at every picture, whole, as the image processor hands them to the network."""
        slices = self.loader.slices
        side = 2 * self.config.crops.global_size
        pixel_values = []
        for row in np.linspace(0, len(slices) - 1, _NUM_PICTURE_SLICES + 2).round().astype(int)[1:-1]:
            image = slices.neighbours(row) if self.processor.channels == "neighbours" else slices.pixels(row)
            size = {"height": side, "width": side}
            prepared = self.processor(image, size=size, padding_hu=slices.padding_hu(row), return_tensors="pt")
            pixel_values.append(prepared.pixel_values)
        return torch.cat(pixel_values).to(self.accelerator.device)

    @contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        def remember(number: int, _frame: object) -> None:
            self.stop_signal = signal.Signals(number).name
            self.progress.write(f"{self.stop_signal}: finishing this step, then saving.")

        before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _is_stopped(self, step: int) -> bool:
        """True once a signal came. Several processes ask the first one, where they wait for the device anyway."""
        if self.accelerator.num_processes == 1:
            return self.stop_signal is not None
        if not self.due("log", step):
            return False
        agreed = [self.stop_signal]
        broadcast_object_list(agreed)
        self.stop_signal = agreed[0]
        return self.stop_signal is not None

    def _restart_clock(self, step: int) -> None:
        self.clock, self.clock_step, self.seconds_waiting = time.perf_counter(), step, 0.0

    def _speed(self, step: int) -> dict[str, float]:
        seconds = time.perf_counter() - self.clock
        return {
            "images_per_second": (step + 1 - self.clock_step) * self.loader.images_per_step / seconds,
            "share_waiting_for_data": self.seconds_waiting / seconds,
        }


def _refuse_other_configuration(config: PretrainConfig, run_yaml: Path) -> None:
    before, now = flat(yaml.safe_load(run_yaml.read_text())), flat(to_dict(config))
    fixed = [name for name in now if name.partition(".")[0] not in _FREE_TO_CHANGE]
    changed = [name for name in fixed if before.get(name) != now[name]]
    if changed:
        shown = "; ".join(f"{name}: {before.get(name)} became {now[name]}" for name in changed)
        raise ValueError(
            f"--resume expects the configuration in {run_yaml}; found a change in {shown}. Give the same file and "
            f"overrides as at the start, or start a new run with --output=…."
        )


def _refuse_other_data(run_yaml: Path, loader: PretrainLoader) -> None:
    """The folder of the data may move; what lies in it may not change under a run."""
    before = yaml.safe_load(run_yaml.read_text()).get("lineage", {}).get("data_fingerprint")
    if before != loader.slices.fingerprint:
        raise ValueError(
            f"--resume expects the slices with fingerprint {before} that {run_yaml} records; found "
            f"{loader.slices.fingerprint} in {loader.slices.folder}. Name the run's own data with --data.folder=…, or "
            f"start a new run with --output=…."
        )


def _git_commit() -> str | None:
    """The commit of the code that runs, or None outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
