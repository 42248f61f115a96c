"""Evaluations side by side: python training/compare_evaluations.py OUT NAME=FOLDER [NAME=FOLDER …].

FOLDER is what training/evaluate.py wrote. OUT.json, OUT.md, OUT.png and OUT.svg are written: numbers, tables, figure.
"""

import argparse
import json
from pathlib import Path

from dinox_hf.console import run_command
from dinox_hf.evaluation.pages.comparison import comparison_markdown, comparison_record, draw_comparison


def main() -> None:
    """Read the reports, write one page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="path of the page, without an ending")
    parser.add_argument("evaluations", nargs="+", metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    records = [read(*named.rpartition("=")[::2]) for named in arguments.evaluations]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    arguments.out.with_suffix(".md").write_text(comparison_markdown(records))
    draw_comparison(arguments.out.with_suffix(".png"), records)
    print(f"Written: {arguments.out}.json, .md, .png and .svg")


def read(name: str, folder: str) -> dict:
    """The record of one evaluation; ValueError where there is none."""
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise ValueError(
            f"Expected report.json of an evaluation in {folder}; found none. Run training/evaluate.py first, with "
            f"--out={folder}."
        )
    return comparison_record(name or Path(folder).name, json.loads(path.read_text()))


if __name__ == "__main__":
    run_command(main)
