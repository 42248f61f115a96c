"""Arrows point one way: every room imports only the rooms that this table allows."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dinox_hf"

# room -> rooms it may import; console.py, training/, dataset_scripts/ and tests/ are no rooms and may import all.
# source_commit.py is none either: it imports nothing of ours, and all may import it.
ROOMS = {
    "model": set(),
    "losses": set(),
    "metrics": set(),
    "data": {"model"},
    "pretraining": {"model", "losses", "metrics", "data"},
    "tasks": {"model", "losses", "metrics"},
    "evaluation": {"model", "metrics", "data", "tasks"},
    "hub": {"model", "tasks", "evaluation"},
    "serving": {"model", "data", "tasks", "evaluation"},
    "doctor": {"model", "pretraining"},
}
# The lowest rooms know no others and little of the world.
LOWEST_ROOMS_MAY_USE = {"torch", "transformers", "numpy", "scipy", "sklearn", "huggingface_hub", "PIL", "safetensors"}
FORBIDDEN_LIBRARIES = {"torchvision", "timm"}
SHIPPED = ["configuration_dinov3_ct.py", "modeling_dinov3_ct.py", "image_processing_dinov3_ct.py"]


def imported_modules(source: str, package: tuple[str, ...]) -> list[str]:
    """Absolute dotted names that a module imports anywhere, function bodies included."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{stem}.{alias.name}" for alias in node.names]
    return names


def imports_of(path: Path) -> list[str]:
    return imported_modules(path.read_text(), path.relative_to(ROOT).with_suffix("").parts[:-1])


def room_of(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "dinox_hf" and parts[1] in ROOMS else None


def files_in_rooms() -> list[Path]:
    return [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))]


@pytest.mark.parametrize("path", files_in_rooms(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_the_rooms_below_it(path):
    room = path.relative_to(PACKAGE).parts[0]
    reached = {room_of(name) for name in imports_of(path)} - {None, room}
    assert reached <= ROOMS[room], f"{path.name} in {room}/ may import {sorted(ROOMS[room])}; found {sorted(reached)}"


@pytest.mark.parametrize("path", files_in_rooms(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_room_imports_the_scripts_or_the_command_line(path):
    outside = {"training", "dataset_scripts", "demo", "tests", "benchmarks", "dinox_hf.cli", "dinox_hf.console"}
    reached = {name for name in imports_of(path) if name.split(".")[0] in outside or name.startswith(tuple(outside))}
    assert not reached


@pytest.mark.parametrize("room", ["model", "losses", "metrics"])
def test_the_lowest_rooms_use_only_tensor_libraries(room):
    import sys

    allowed = LOWEST_ROOMS_MAY_USE | set(sys.stdlib_module_names) | {"dinox_hf"}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        libraries = {name.split(".")[0] for name in imports_of(path)}
        assert libraries <= allowed, f"{room}/{path.name} imports {sorted(libraries - allowed)}"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_modelling_code_is_flat(name):
    tree = ast.parse((PACKAGE / "model" / name).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("dinox_hf") for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1 and not (node.module or "").startswith("dinox_hf")
            # Saving remote code follows only `from .sibling import X`, siblings that ship too.
            assert node.level == 0 or f"{node.module}.py" in SHIPPED


def test_no_file_depends_on_libraries_that_force_a_cuda_build():
    for path in [
        *PACKAGE.rglob("*.py"),
        *(ROOT / "training").rglob("*.py"),
        *(ROOT / "dataset_scripts").rglob("*.py"),
    ]:
        assert not {name.split(".")[0] for name in imports_of(path)} & FORBIDDEN_LIBRARIES, path
    for name in ("pyproject.toml", "constraints.txt"):
        lines = (ROOT / name).read_text().lower().splitlines()
        assert not [line for line in lines if any(library in line for library in FORBIDDEN_LIBRARIES)]


def test_what_every_room_may_import_imports_nothing_of_ours():
    assert not [name for name in imports_of(PACKAGE / "source_commit.py") if name.startswith("dinox_hf")]


def test_the_table_notices_an_upward_import():
    names = imported_modules("from ..pretraining import config", ("dinox_hf", "losses"))
    assert [room_of(name) for name in names] == ["pretraining"]
