"""docs/labels.md says what docs/labels.json holds, which training/evaluate.py wrote, and no other score."""

import json
import re
from pathlib import Path

from dinox_hf.evaluation.parts.label_efficiency_part import LABEL_EFFICIENCY
from dinox_hf.evaluation.parts.neighbours_part import NEIGHBOURS
from dinox_hf.evaluation.parts.readers_part import READERS
from dinox_hf.evaluation.probes.label_efficiency import CLAIMED_SHARE

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "labels.md").read_text()
REPORT = json.loads((DOCS / "labels.json").read_text())
PARTS = (LABEL_EFFICIENCY, READERS, NEIGHBOURS)


def test_the_tables_and_sentences_are_those_that_the_numbers_give():
    for part in PARTS:
        assert part.section(REPORT) in PAGE
        for line in part.verdict(REPORT):
            assert line in PAGE


def test_no_score_stands_outside_them():
    rest = PAGE
    for part in PARTS:
        for text in (part.section(REPORT), *part.verdict(REPORT)):
            rest = rest.replace(text, "")
    assert re.findall(r"\b0\.\d{2,}", rest) == []


def test_the_backbone_saw_no_patient_and_the_claim_is_told_as_it_came_out():
    assert "saw images of none" in REPORT["data"]["seen_in_pretraining"]
    shares = [each["share"] for each in REPORT["label_efficiency"]["reached"] if each["features"] == "backbone"]
    holds = any(share is not None and share <= CLAIMED_SHARE for share in shares)
    assert f"**The claim of 95 % fewer labels {'holds' if holds else 'does not hold'}" in PAGE


def test_the_figure_and_the_source_are_there():
    assert (DOCS / "label_efficiency.png").is_file()
    for source in ("10.7937/K9/TCIA.2015.LO9QL9SX", "CC BY 3.0", "github.com/mtzig/LIDC_GDRO"):
        assert source in PAGE
