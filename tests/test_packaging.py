"""What a wheel holds – every package of ours, the card templates, the command – and that it works from elsewhere."""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

import pytest

import dinox_command
import dinox_hf
from tests.test_architecture import imports_of

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_is_listed_for_the_wheel():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "dinox_hf").rglob("*.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"dinox_hf.model_card"}


def test_every_package_has_an_init_with_one_docstring():
    for path in (ROOT / "dinox_hf").rglob("*.py"):
        assert (path.parent / "__init__.py").read_text().startswith('"""'), path.parent


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_changelog_has_a_section_for_the_version():
    assert f"\n## [{project()['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def distribution(requirement: str) -> str:
    return re.split(r"[>=\[ ]", requirement)[0].lower().replace("_", "-")


def test_constraints_pin_every_dependency():
    wanted = [*project()["dependencies"], *chain(*project()["optional-dependencies"].values())]
    pinned = {distribution(line) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert not {distribution(name) for name in wanted} - pinned - {"dinox-hf"}


def test_every_library_that_is_imported_is_a_dependency():
    extras = {name: of for name, of in project()["optional-dependencies"].items() if name != "dev"}
    declared = {distribution(name) for name in [*project()["dependencies"], *chain(*extras.values())]}
    names = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
    at_hand = {*sys.stdlib_module_names, "dinox_hf", ""}
    for folder in ("dinox_hf", "training", "dataset_scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            libraries = {name.split(".")[0] for name in imports_of(path)} - at_hand
            unknown = {distribution(names.get(library, library)) for library in libraries} - declared
            assert not unknown, f"{path} imports {unknown}"


def test_help_is_one_screen_and_needs_no_torch():
    code = "import sys, dinox_command; dinox_command.main(['--help']); sys.exit('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = shown.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    assert [line.split()[1] for line in lines if line.startswith("  dinox ")] == [*dinox_command.COMMANDS, "pretrain"]


@pytest.mark.parametrize("name", dinox_command.COMMANDS)
def test_every_command_tells_its_arguments_under_its_own_name(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dinox"])
    with pytest.raises(SystemExit) as ended:
        dinox_command.main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dinox {name} ")


@pytest.mark.parametrize("arguments", [["biuld"], ["build"], ["export", "nowhere"]])
def test_a_mistake_in_a_command_ends_with_code_2(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dinox"])
    with pytest.raises(SystemExit) as ended:
        dinox_command.main(arguments)
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err


def test_a_refusal_of_a_command_is_one_paragraph(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dinox"])
    with pytest.raises(SystemExit) as ended:
        dinox_command.main(["export", str(tmp_path), str(tmp_path / "out")])
    assert ended.value.code == 2 and re.match(r"\nerror: The weights to start from should be", capsys.readouterr().err)


def test_pretraining_says_that_it_needs_a_checkout():
    with pytest.raises(SystemExit, match=r"needs a checkout(.|\n)*accelerate launch training/pretrain\.py"):
        dinox_command.main(["pretrain"])


SCRIPTS = (
    *("dataset_scripts/build_lidc_idri.py", "dataset_scripts/preview.py"),
    *("training/evaluate.py", "training/publish.py"),
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_and_its_command_are_one_function(script):
    name = {"build_lidc_idri": "build"}.get(Path(script).stem, Path(script).stem)
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    assert module.main is importlib.import_module(dinox_command.COMMANDS[name][0]).main


# What somebody calls, beside the class itself; inherited parts are documented by transformers.
CALLS = ("forward", "preprocess", "preset")


@pytest.mark.parametrize("name", dinox_hf.__all__)
def test_every_public_name_says_shapes_units_and_errors(name):
    public = getattr(dinox_hf, name)
    calls = [getattr(public, call) for call in CALLS if call in vars(public)] if inspect.isclass(public) else []
    text = "\n".join(inspect.getdoc(part) or "" for part in (public, *calls))
    assert "Raises:\n    ValueError: " in text
    assert re.search(r"Args:\n    \w", text)
    if name == "Dinov3CTConfig":
        assert "pixels" in text and "millimetres" in text
        return
    assert re.search(r"\((B|H|Z|rows|3), ", text), "the shape of what goes in or comes out"
    assert re.search(r"\bmm\b|millimetres|HU", text), "a unit"
    assert re.search(r"Returns:|Yields:", text)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy: setuptools writes beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("dinox_hf", "model_card"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "dinox_command.py"):
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.long
def test_the_wheel_holds_the_package_its_templates_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "dinox_hf").rglob("*.py")}
    templates = {f"dinox_hf/model_card/{path.name}" for path in (ROOT / "model_card").glob("*.md")}
    assert len(templates) >= 5
    assert names == sources | templates | {"dinox_hf/py.typed", "dinox_command.py"}


@pytest.mark.long
def test_the_command_of_an_installed_wheel_works_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    options = ["--no-deps", "--no-index", "--no-compile", "-q", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, capture_output=True)
    # Everything else comes from this environment; our own package only from the wheel.
    environment = os.environ | {"PYTHONPATH": str(site)}

    def dinox(*arguments):
        command = [site / "bin" / "dinox", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    assert dinox("--version").stdout == f"dinox {project()['version']}\n"
    planned = dinox("plan", "--device-gb", "96")
    assert planned.returncode == 0 and "It fits: " in planned.stdout, planned.stderr
    assert dinox("pretrain").returncode == 1
