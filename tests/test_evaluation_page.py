"""docs/evaluation.md says what docs/evaluation.json holds, which a command wrote, and no other number of a result."""

import json
import re
import sys
from pathlib import Path

import pytest

from dinox_hf.evaluation.pages.comparison import comparison_markdown
from training import compare_evaluations

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "evaluation.md").read_text()
RECORDS = json.loads((DOCS / "evaluation.json").read_text())


def test_the_tables_are_those_that_the_numbers_give():
    assert comparison_markdown(RECORDS) in PAGE


def test_no_score_stands_outside_the_tables():
    assert re.findall(r"\b0\.\d{2,}", PAGE.replace(comparison_markdown(RECORDS), "")) == []


def test_every_network_was_asked_about_patients_that_it_had_not_seen():
    assert {record["data"]["fingerprint"] for record in RECORDS if record["data"]["num_patients"] == 316} != set()
    for record in RECORDS:
        assert "saw images of none" in record["seen"] or "were left out" in record["seen"]
        assert "Not checked" not in record["seen"]


def test_the_figure_and_the_source_are_there():
    assert (DOCS / "evaluation.png").is_file()
    for source in ("10.7937/K9/TCIA.2015.LO9QL9SX", "CC BY 3.0", "github.com/mtzig/LIDC_GDRO"):
        assert source in PAGE


def test_the_command_wants_evaluations(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["compare", str(tmp_path / "page"), f"a run={tmp_path}"])
    with pytest.raises(ValueError, match=r"Expected report\.json .*Run training/evaluate\.py first"):
        compare_evaluations.main()
