"""docs/recipe.md tells the truth: its files, tests, fields and defaults exist, and no row is left undecided."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import yaml

import training.pretrain as script
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import flat, to_dict

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "recipe.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| The recipe |", "| transformers' DINOv3 |"))
]
# Values by dotted name: fields of a run, and those of its backbone under `backbone.`.
DEFAULTS = flat(to_dict(PretrainConfig())) | {
    f"backbone.{name}": getattr(Dinov3CTConfig(), name) for name in Dinov3CTConfig.__annotations__
}
IN_A_STAGE = {"init.take: everything"}  # said of a stage and not of a run without one


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


@cache
def claims_of(path):
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def title(row):
    return row[0][:60]


def test_the_page_has_the_whole_recipe():
    # As many rows as there are facts; fewer mean that the table is read wrongly.
    assert len(ROWS) >= 75
    sections = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert sections[:7] == [
        "Network",
        "Losses",
        "Gram teacher",
        "Data",
        "Optimiser and schedules",
        "Stages",
        "Scale and checkpoints",
    ]


@pytest.mark.parametrize("row", ROWS, ids=title)
def test_every_row_is_decided_and_what_it_names_exists(row):
    recipe, here, where, shown_by = row
    verdict = re.match(r"\*\*(same|ours|not here)\*\*", here)
    assert verdict, f"{recipe}: neither same, ours nor not here"
    assert quoted(where), f"{recipe}: no file"
    for path in quoted(where):
        assert (ROOT / path).is_file(), path
    if verdict[1] == "not here":
        assert len(here.split()) > 8, f"{recipe}: no reason"
        return
    if verdict[1] == "ours":
        assert len(here.split()) > 3, f"{recipe}: no reason"
    assert quoted(shown_by), f"{recipe}: no proof"
    for name in quoted(shown_by):
        path, _, test = name.partition("::")
        assert (ROOT / "tests" / path).is_file(), path
        assert not test or test in claims_of(ROOT / "tests" / path), name


FIELD = re.compile(r"[a-z_0-9]+(\.[a-z_0-9]+)*(: .+)?")
NAMED = sorted({name for row in ROWS for name in quoted(row[1]) if FIELD.fullmatch(name)})


@pytest.mark.parametrize("named", [name for name in NAMED if "." in name or ":" in name])
def test_every_field_has_the_default_that_the_page_gives(named):
    field, colon, value = named.partition(": ")
    groups = {name.rpartition(".")[0] for name in DEFAULTS}
    assert field in DEFAULTS or field in groups, field
    if colon and named not in IN_A_STAGE:
        assert DEFAULTS[field] == yaml.safe_load(value), field


def test_defaults_are_found_in_the_page():
    assert sum(": " in name for name in NAMED) >= 50


def test_a_configuration_that_the_page_names_exists():
    named = [name for name in re.findall(r"`([^`\s]+/[^`\s]+\.yaml)`", PAGE) if "/" in name]
    assert len(named) >= 8 and [name for name in named if not (ROOT / name).is_file()] == []


def test_the_commands_of_the_page_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^python training/pretrain.py (.+)$", PAGE, re.MULTILINE)
    outputs = [script.read_arguments(command.split())[0].output for command in commands]
    assert outputs == ["outputs/vitl16/pretrain", "outputs/vitl16/gram", "outputs/vitl16/highres"]
