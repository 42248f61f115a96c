"""The files for ROCm: both shells set the same, the doctor asks for nothing else, and the installer checks first."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dinox_hf.doctor.check_machine import ROCM_ENVIRONMENT

FOLDER = Path(__file__).resolve().parents[2] / "accelerate_configs"
BASH, FISH = FOLDER / "rocm_strix_halo.env.sh", FOLDER / "rocm_strix_halo.env.fish"
INSTALL = FOLDER / "install_rocm.sh"


def commands(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def sourced(shell: str, path: Path) -> dict[str, str]:
    """The environment after sourcing a file in a shell where another GPU was feigned."""
    script = f"export HSA_OVERRIDE_GFX_VERSION=11.0.0; source '{path}'; env"
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def test_bash_sets_what_the_doctor_asks_for():
    environment = sourced("bash", BASH)
    assert ROCM_ENVIRONMENT.items() <= environment.items()
    assert "HSA_OVERRIDE_GFX_VERSION" not in environment


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_sets_what_the_doctor_asks_for():
    environment = sourced("fish", FISH)
    assert ROCM_ENVIRONMENT.items() <= environment.items()
    assert "HSA_OVERRIDE_GFX_VERSION" not in environment


def test_both_files_say_the_same_line_by_line():
    translated = []
    for line in commands(BASH):
        line = re.sub(r"^export (\w+)=(\S+)$", r"set -gx \1 \2", line)
        translated.append(re.sub(r"^unset (\w+)$", r"set -e \1", line))
    assert commands(FISH) == translated and len(translated) == len(ROCM_ENVIRONMENT) + 1


def install(**environment: str) -> subprocess.CompletedProcess:
    path = os.environ["PATH"]
    return subprocess.run(
        ["bash", str(INSTALL)], capture_output=True, text=True, env={"PATH": path, "DRY_RUN": "1", **environment}
    )


def test_the_installer_takes_torch_alone_from_the_index_of_amd():
    done = install(VIRTUAL_ENV="/some/venv")
    lines = [line for line in done.stdout.splitlines() if line.startswith("+ ")]
    (torch,) = [line for line in lines if "--index-url" in line]
    assert done.returncode == 0 and torch.endswith(" torch[device-gfx1151]")
    assert lines[-1] == "+ python -m dinox_hf.doctor"
    # The pin of the CPU build would throw the ROCm build out again.
    assert "grep -v '^torch=='" in INSTALL.read_text()


def test_the_installer_takes_another_architecture_and_index():
    done = install(VIRTUAL_ENV="/some/venv", ROCM_ARCH="gfx1100", ROCM_INDEX="https://example.org/whl/")
    assert "--index-url https://example.org/whl/ torch[device-gfx1100]" in done.stdout


@pytest.mark.parametrize(
    ("environment", "words"),
    [({}, "virtual environment"), ({"VIRTUAL_ENV": "/some/venv", "ROCM_ARCH": "8060S"}, "found '8060S'")],
)
def test_the_installer_refuses_before_it_installs(environment, words):
    done = install(**environment)
    assert done.returncode == 2 and words in done.stderr and "+ " not in done.stdout
