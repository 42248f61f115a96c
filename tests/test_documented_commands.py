"""Every command that README and docs print is run, made small where it would take hours – or says why it is not.

A block that no test runs begins with `# not run by a test: REASON`, or stands below that in an HTML comment.
"""

import importlib
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import dinox_command
import training.pretrain as pretraining
from tests.data.scans import nodule_xml, square, write_series, write_xml
from tests.evaluation.conftest import write_run, write_set
from tests.training.tiny import TINY

ROOT = Path(__file__).resolve().parents[1]
PHANTOM_PRESET = "training/configs/quickstart.yaml"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?P<mark><!--[^\n]*-->\n+)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
NOT_RUN = re.compile(r"not run by a test: (\S.+)")
SHELL = {"bash", "sh", "fish", "console"}

# What CI itself calls, and what the pages of the environment files have tests of their own for.
TRIED_ELSEWHERE = re.compile(r"make (setup|test|test-long|test-browser|docs)$|source ")
SMALL_RUN = [*(option for option in TINY if not option.startswith("--gram=")), "--batch.accumulate=1"]
SMALL_STAGES = {
    "quickstart.yaml": ["--gram={first_step: 2, ramp_steps: 2, refresh_every: 2, max_refreshes: 1}"],
    "vits16_trial.yaml": ["--gram={first_step: 2, ramp_steps: 2, refresh_every: 2, max_refreshes: 1}"],
    "vitl16_gram.yaml": ["--crops.gram_size=64"],
    "vitl16_highres.yaml": ["--crops.gram_size=64"],
}
SMALL_HEAD = ["--training.epochs=1", "--data.test=fold", "--data.num_folds=3", "--crops.size_px=24"]


class Command(NamedTuple):
    """One command of a page, as printed, on one line."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def commands_of(path: Path) -> tuple[list[Command], list[str]]:
    """The commands that are to be run, and the reasons of the blocks that are not."""
    commands, reasons = [], []
    for block in BLOCK.finditer(path.read_text()):
        if block["language"] not in SHELL:
            continue
        reason = NOT_RUN.search((block["mark"] or "") + block["text"].splitlines()[0])
        if reason:
            reasons.append(reason[1])
            continue
        lines = block["text"].replace("\\\n", " ").splitlines()
        commands += [Command(path.name, line) for line in lines if shlex.split(line, comments=True)]
    return commands, reasons


COMMANDS = [command for path in PAGES for command in commands_of(path)[0]]


def test_every_command_can_be_run_here_or_says_why_not():
    unknown = [f"{command.page}: {command.text}" for command in COMMANDS if runner_of(command) is None]
    assert unknown == [], "run it below, or begin its block with `# not run by a test: REASON`"


def test_a_reason_is_given_for_what_is_not_run():
    reasons = [reason for path in PAGES for reason in commands_of(path)[1]]
    assert len(COMMANDS) > len(reasons) and all(len(reason.split()) >= 3 for reason in reasons)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder that looks like a checkout with scans beside it, for commands that write into `outputs/`."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("training", "dataset_scripts", "accelerate_configs", "model_card", "benchmarks", "demo"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    for raw in ("RAW", "data/lidc_raw"):
        files = write_series(folder / raw)
        assert files
        write_xml(folder / raw / "readers.xml", [nodule_xml([(-30, "1.2.3.1", square(3, 9))])])
    shutil.make_archive(str(folder / "LIDC-XML-only"), "zip", folder / "data/lidc_raw", "readers.xml")
    return folder


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.page}: {command.text[:90]}")
def test_a_documented_command_does_what_it_says(command, checkout, monkeypatch):
    monkeypatch.chdir(checkout)
    runner_of(command)(command.words)


def runner_of(command: Command):
    """What runs a command; None if nothing does."""
    if TRIED_ELSEWHERE.match(command.text.split("#")[0].strip()):
        return lambda words: None
    return next((runner for name, runner in RUNNERS.items() if name in command.words), None)


def call(script: str, arguments: list[str], codes: tuple[int, ...] = (0,)) -> None:
    """`python SCRIPT ARGUMENTS`, in this process: a dozen commands need not import torch a dozen times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            assert (ended.code or 0) in codes


def labelled(folder: str) -> Path:
    """The set that a command names, with enough nodules for an evaluation."""
    path = Path(folder)
    if not (path / "labelled").exists():
        shutil.rmtree(path, ignore_errors=True)
        write_set(path, num_patients=24)
        (path / "labelled").touch()
    return path


def trained(folder: str) -> None:
    """The run that a command names, if no command before has written it."""
    if Path(folder).suffix == "" and not (Path(folder) / "run.yaml").is_file():
        write_run(Path(folder), labelled(f"{Path(folder).parent}/dataset"))


def build(words: list[str]) -> None:
    arguments = words[2:]
    shutil.rmtree(arguments[1], ignore_errors=True)
    call(words[1], arguments)
    assert (Path(arguments[1]) / "ingest_report.json").is_file()


def pretrain(words: list[str]) -> None:
    arguments = words[words.index(PRETRAIN) + 1 :]
    arguments = [PHANTOM_PRESET if word == "CONFIG.yaml" else word for word in arguments]
    name = next((Path(word).name for word in arguments if word.endswith(".yaml")), Path(PHANTOM_PRESET).name)
    config, resume = pretraining.read_arguments([*arguments, *SMALL_RUN, *SMALL_STAGES.get(name, [])])
    labelled(config.data.folder)
    if resume == "never":
        shutil.rmtree(config.output, ignore_errors=True)
    pretraining.main(config, resume)
    assert (Path(config.output) / "run.yaml").is_file()


def evaluate(words: list[str]) -> None:
    trained(words[2])
    call(words[1], [*words[2:], "--seeds=1"])
    assert (Path(words[2]) / "evaluation" / "report.md").is_file()


def publish(words: list[str]) -> None:
    trained(words[2])
    call(words[1], words[2:])


def finetune(words: list[str]) -> None:
    trained(words[2])
    labelled(words[3])
    head = importlib.import_module(words[1].removesuffix(".py").replace("/", "."))
    shutil.rmtree(head.read_arguments(words[2:]).output, ignore_errors=True)
    call(words[1], [*words[2:], *SMALL_HEAD])


def preview(words: list[str]) -> None:
    labelled(words[2])
    call(words[1], words[2:])


def installed(words: list[str]) -> None:
    if words[1] == "export":
        trained(words[2])
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", words)
        dinox_command.main(words[1:])
    assert ended.value.code in (0, 1, None)


def as_printed(words: list[str]) -> None:
    call(words[1], words[2:])


def module(words: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [words[2], *words[3:]])
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    # 1 is an answer too: the machine has something to mend, the plan does not fit.
    assert ended.value.code in (0, 1, None)


PRETRAIN = "training/pretrain.py"
RUNNERS = {
    PRETRAIN: pretrain,
    "dataset_scripts/build_lidc_idri.py": build,
    "dataset_scripts/download_lidc_idri.py": as_printed,
    "dataset_scripts/preview.py": preview,
    "training/evaluate.py": evaluate,
    "training/publish.py": publish,
    "training/finetune_classification.py": finetune,
    "training/finetune_segmentation.py": finetune,
    "dinox": installed,
    "dinox_hf.doctor": module,
    "dinox_hf.pretraining.memory": module,
}
