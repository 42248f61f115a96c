"""A run under watch: every new checkpoint is evaluated once as it appears, also from a machine that shares the folder.

What is known of a checkpoint is one line of `watch.jsonl`; the curve over all lines is drawn anew after each. A
checkpoint that is still being written, is damaged, or has been deleted by the run's rotation is passed over: the first
is looked at again, the second when its files change.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.durable_files import write_text_whole
from .backbones.learning import read_run
from .backbones.subject import EvaluationSettings
from .cohorts.nodule_sources import open_source
from .pages.watch_figure import draw_watch
from .suite import LIGHT_PARTS, PARTS, evaluate

Record = dict[str, Any]
LINES = "watch.jsonl"


@dataclass(frozen=True)
class Watch:
    """How to watch one run.

    Attributes:
        run: the run folder.
        out: folder of the lines, the curve and a report for each checkpoint.
        asked: what is asked of a checkpoint, as plain JSON values; lines of other questions are kept and not counted.
        evaluate: evaluates the checkpoint of a step into a folder and returns its report.
        damage: says what is wrong with a checkpoint folder, None if nothing is.
        tell: called with one line of text at a time.
        every_s: seconds between two looks.
    """

    run: Path
    out: Path
    asked: Record
    evaluate: Callable[[int, Path], Record]
    damage: Callable[[Path], str | None]
    tell: Callable[[str], None] = print
    every_s: float = 30.0

    def until_the_end(self, once: bool = False) -> list[Record]:
        """Evaluate what is there and wait for more, until the run's last step is evaluated.

        Args:
            once: do not wait.

        Returns:
            The lines of this question, by step.

        Raises:
            ValueError: if the folder is no run.
        """
        last_step = self._last_step()
        passed_over: dict[str, str] = {}  # by checkpoint: its files when it was looked at
        tried: set[str] = set()
        while True:
            for checkpoint in self._checkpoints():
                if not self._is_known(checkpoint) and checkpoint.name not in tried:
                    self._look_at(checkpoint, passed_over, tried)
            steps = {_step(name) for name in tried} | {line["step"] for line in self._lines() if "error" not in line}
            if once or last_step in steps:
                return self._lines()
            self.tell(f"Waiting for a new checkpoint of {self.run.name}, up to step {last_step} (Ctrl-C ends).")
            while not self._is_anything_new(passed_over, tried):
                time.sleep(self.every_s)

    def _look_at(self, checkpoint: Path, passed_over: dict[str, str], tried: set[str]) -> None:
        files = _files(checkpoint)
        if passed_over.get(checkpoint.name) == files:
            return
        passed_over[checkpoint.name] = files
        problem, state = self.damage(checkpoint), _state(checkpoint)
        if problem or state is None:
            self.tell(f"{checkpoint.name}: passed over, {problem or 'it has been deleted'}.")
            return
        self.tell(f"{checkpoint.name}: evaluating.")
        began = time.monotonic()
        line = {"checkpoint": checkpoint.name, "step": _step(checkpoint.name), "state": state, "asked": self.asked}
        try:
            report = self.evaluate(_step(checkpoint.name), self.out / checkpoint.name)
            line |= {"seconds": round(time.monotonic() - began, 1), **summary(report)}
        except Exception as error:
            if not checkpoint.is_dir():
                self.tell(f"{checkpoint.name}: passed over, it was deleted while it was read.")
                return
            if not isinstance(error, ValueError):
                raise
            # One diverged checkpoint must not end the watch; it is tried again when the command is given again.
            line["error"] = str(error)
            self.tell(f"{checkpoint.name}: not evaluated. {error}")
        tried.add(checkpoint.name)
        self._append(line)
        if "error" not in line:
            self.tell(f"{checkpoint.name}: {headline(line)}")

    def _append(self, line: Record) -> None:
        """Write all lines anew and whole, this one in the place of any older one of the same question."""
        others = [
            old
            for old in read_lines(self.out)
            if (old["checkpoint"], old["asked"]) != (line["checkpoint"], self.asked)
        ]
        lines = sorted([*others, line], key=lambda each: each["step"])
        self.out.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in lines)
        write_text_whole(self.out / LINES, text)
        points = [each for each in self._lines() if "error" not in each]
        if points:
            draw_watch(self.out / "watch.png", points)

    def _lines(self) -> list[Record]:
        return [line for line in read_lines(self.out) if line["asked"] == self.asked]

    def _is_known(self, checkpoint: Path) -> bool:
        state = _state(checkpoint)
        return any(
            line["checkpoint"] == checkpoint.name and line["state"] == state and "error" not in line
            for line in self._lines()
        )

    def _is_anything_new(self, passed_over: dict[str, str], tried: set[str]) -> bool:
        return any(
            checkpoint.name not in tried
            and passed_over.get(checkpoint.name) != _files(checkpoint)
            and not self._is_known(checkpoint)
            for checkpoint in self._checkpoints()
        )

    def _checkpoints(self) -> list[Path]:
        """Oldest first: the run's rotation deletes in that order."""
        found = [path for path in self.run.glob("checkpoints/step_*") if path.name.removeprefix("step_").isdigit()]
        return sorted(found, key=lambda path: _step(path.name))

    def _last_step(self) -> int:
        config = read_run(self.run)
        if config is None or not isinstance(config.get("steps"), int):
            raise ValueError(
                f"--watch expects a run folder with run.yaml that names its steps; found "
                f"{'none' if config is None else 'no steps'} in {self.run}. Name the folder that training/pretrain.py "
                f"writes (its --output), once the run has begun."
            )
        return config["steps"]


def watch_run(
    source: str,
    data: str | None,
    out: str | None,
    settings: EvaluationSettings,
    full: bool,
    damage: Callable[[Path], str | None],
    every_s: float = 30.0,
) -> Watch:
    """Watch a run with the light suite, probes, collapse and learning, or with the full one.

    Args:
        source: the run folder.
        data: a built set or an npz of patches; None takes the set that the run is trained on.
        out: where to write; None takes `evaluation/watch/` in the run folder.
        settings: of every evaluation.
        full: ask everything.
        damage: see `Watch`.
        every_s: see `Watch`.

    Raises:
        ValueError: if the folder is no run, or the data are missing.
    """
    run, config = Path(source), read_run(Path(source))
    folder = Path(out) if out is not None else run / "evaluation" / "watch"
    if every_s <= 0:
        raise ValueError(f"--every must be > 0 seconds; found {every_s:g}. The default is 30.")
    if data is None and config is not None:
        data = config["data"]["folder"]
    if data is not None:
        open_source(data)  # what is wrong with it is wrong for every checkpoint: say so at once
    parts = PARTS if full else LIGHT_PARTS

    def evaluate_step(step: int, report_folder: Path) -> Record:
        evaluate(source, data, str(report_folder), settings, parts, step, cache=folder)
        return json.loads((report_folder / "report.json").read_text(encoding="utf-8"))

    asked = {"suite": "full" if full else "light", "data": Path(data).name if data else None, **asdict(settings)}
    return Watch(run, folder, asked, evaluate_step, damage, every_s=every_s)


def read_lines(out: Path) -> list[Record]:
    """All lines of a watch, of whatever question; empty before the first."""
    path = out / LINES
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def summary(report: Record) -> Record:
    """The few numbers of a report that make a curve; what was not measured is left out."""
    scores = {
        probe["question"]: {
            f"{score['features']}, {score['pooling']}": [score["auc"], *score["interval"]]
            for score in probe["scores"]
            if score["pooling"] in ("cls", "–")
        }
        for probe in report["probes"]
        if probe["not_measured"] is None
    }
    gain, collapse = report["cls_gain"], report["collapse"]
    dense = {}
    for field in report.get("attention", []):
        maps = {name: each["auprc"] for name, each in field["maps"].items() if name.endswith("mean of heads")}
        dense[f"attention AUPRC, {field['name']}"] = maps
    for field in report.get("segmentation", {}).get("fields", []):
        dense[f"outlines Dice, {field['name']}"] = {name: each["dice"] for name, each in field["scores"].items()}
    return {
        "weights": report["backbone"]["weights_digest"],
        "cls_gain": gain and [gain["gain"], *gain["interval"]],
        "auc": scores,
        "effective_rank": collapse.get("slices", collapse["nodules"])["backbone"]["effective_rank"],
        "dense": dense,
    }


def headline(line: Record) -> str:
    """One line for the terminal."""
    parts = []
    if line["cls_gain"]:
        parts.append(f"CLS probe gain {line['cls_gain'][0]:+.3f} AUC")
    malignancy = line["auc"].get("malignancy A", {}).get("backbone, cls")
    if malignancy:
        parts.append(f"malignancy A {malignancy[0]:.3f}")
    parts.append(f"effective rank {line['effective_rank']:.1f} ({line['seconds']:.0f} s)")
    return ", ".join(parts)


def _step(name: str) -> int:
    return int(name.removeprefix("step_"))


def _state(checkpoint: Path) -> str | None:
    """Names what a checkpoint holds, from the sums in its state.json; None where it has none, or is gone."""
    try:
        return hashlib.sha256((checkpoint / "state.json").read_bytes()).hexdigest()[:16]
    except OSError:
        return None


def _files(checkpoint: Path) -> str:
    """Names, sizes and times of a checkpoint's files: while they stay, a second look would find the same."""
    found = []
    for path in sorted(checkpoint.rglob("*")):
        try:
            found.append(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}")
        except OSError:
            continue  # deleted between the two
    return "\n".join(found)
