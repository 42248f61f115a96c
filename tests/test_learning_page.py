"""docs/learning.md says what docs/learning.json holds, which `make learn` wrote, and no other number of a result."""

import json
import re
from pathlib import Path

from dinox_hf.evaluation.study.patch_probe import PatchProbeSettings
from dinox_hf.evaluation.study.patch_report import markdown

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "learning.md").read_text()
RECORD = json.loads((DOCS / "learning.json").read_text())


def test_the_tables_are_those_that_the_numbers_give():
    assert markdown(RECORD) in PAGE


def test_no_score_stands_outside_the_tables():
    assert re.findall(r"\b0\.\d{2,}", PAGE.replace(markdown(RECORD), "")) == []


def test_the_numbers_are_of_the_whole_experiment_with_the_shipped_settings():
    assert RECORD["changed"] == []
    assert RECORD["settings"] == {name: getattr(PatchProbeSettings(), name) for name in RECORD["settings"]}
    parts = {(run["half"], run["seed"], run["part"]) for run in RECORD["runs"]}
    assert len(parts) == len(RECORD["runs"]) == 2 * 3 * 3
    assert [question["not_measured"] for question in RECORD["questions"]] == [None] * 8


def test_patients_and_nodules_in_words_are_those_in_numbers():
    for half, count in RECORD["patches"]["halves"].items():
        assert f"{half}: {count['nodules']} nodules of {count['patients']} patients" in PAGE
    assert sum(count["patients"] for count in RECORD["patches"]["halves"].values()) == RECORD["patches"]["patients"]


def test_the_figure_and_the_source_are_there():
    assert (DOCS / "learning.png").is_file()
    for source in ("10.7937/K9/TCIA.2015.LO9QL9SX", "CC BY 3.0", "github.com/mtzig/LIDC_GDRO"):
        assert source in PAGE
