"""What a wheel holds: every package of ours, and the card templates."""

import re
import sys
import tomllib
from itertools import chain
from pathlib import Path

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
