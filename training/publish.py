"""Turn a run into a folder for the Hub: python training/publish.py RUN OUT [--plain-at-extent]."""

import argparse
from pathlib import Path

from dinox_hf.console import run_command
from dinox_hf.hub.export import answer_table
from dinox_hf.hub.publish import publish_run


def main() -> None:
    """Export the latest checkpoint of a run, check it where dinox_hf cannot be imported, and say what came."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run folder written by training/pretrain.py")
    parser.add_argument("out", type=Path, help="the folder to write; an earlier export there is replaced")
    parser.add_argument(
        "--plain-at-extent",
        action="store_true",
        help="accept that plain transformers takes every image for rope_extent_mm wide (rope_coordinates: metric)",
    )
    arguments = parser.parse_args()

    answers = publish_run(arguments.run, arguments.out, arguments.plain_at_extent)
    print("Loaded where dinox_hf cannot be imported, compared with the training checkpoint:\n")
    print(answer_table(answers))
    print(f"\nHub folder: {arguments.out}; its model card is README.md.")


if __name__ == "__main__":
    run_command(main)
