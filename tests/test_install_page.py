"""docs/install.md: its commands are run or parsed somewhere, or say that they are not; its numbers are ours."""

import re
import shlex
import sys

import pytest

from dinox_hf.doctor.check_machine import ROCM_ENVIRONMENT
from dinox_hf.doctor.command import main as doctor
from dinox_hf.doctor.devices import peak_of
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from tests.test_accelerate_configs import launch_arguments, launch_commands
from tests.test_commands import ROOT

PAGE = (ROOT / "docs" / "install.md").read_text()
NOT_RUN = "# not run by a test:"
# Where the other commands are tried: test_readme.py, tests/doctor/, below.
TRIED = (
    "make setup",
    "python -m dinox_hf.doctor",
    "source accelerate_configs/",
    "accelerate launch",
    "python training/",
)


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


def commands(begin: str) -> list[list[str]]:
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith(begin)]
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_is_tried_or_says_that_it_is_not():
    tried = [line for block in blocks() if NOT_RUN not in block for line in block.splitlines() if line.strip()]
    assert len(tried) >= 6 and [line for line in tried if not line.startswith(TRIED)] == []


def test_the_options_of_the_doctor_exist(capsys):
    for command in commands("python -m dinox_hf.doctor"):
        with pytest.raises(SystemExit) as ended:
            doctor([*command[3:], "--help"])
        assert ended.value.code == 0


def test_the_options_of_the_tuner_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "training"))
    from tune_throughput import read_arguments

    found = commands("python training/tune_throughput.py")
    assert len(found) == 2
    for command in found:
        monkeypatch.setattr(sys, "argv", command[1:])
        options, rest = read_arguments()
        assert [word for word in rest if word.startswith("--")] == []
        assert load_config(PretrainConfig, rest[0]).steps > 0
    assert (options.micro_batches, options.workers, options.pin) == ([32, 64, 128], [4, 8], [True, False])


@pytest.mark.parametrize("command", launch_commands("install.md"))
def test_accelerate_takes_the_launches(command):
    config = re.search(r"--config_file accelerate_configs/(\S+)", command).group(1)
    assert launch_arguments(config).num_processes == 1


def test_every_file_and_page_that_it_links_exists():
    named = re.findall(r"`(accelerate_configs/[\w.]+|dinox_hf/[\w/.]+|training/[\w/.]+)`", PAGE)
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", PAGE) if not link.startswith("https://")]
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert [link for link in linked if not (ROOT / "docs" / link).exists()] == []


def test_its_numbers_are_those_of_the_doctor():
    assert f"ttm.pages_limit={96 * 2**30 // 4096}" in PAGE
    peak = peak_of("Radeon 8060S Graphics", "gfx1151")
    assert f"{peak.tflops} TFLOP/s" in PAGE and f"{peak.gb_s} GB/s" in PAGE
    assert all(f"{name}={value}" in PAGE for name, value in ROCM_ENVIRONMENT.items())
