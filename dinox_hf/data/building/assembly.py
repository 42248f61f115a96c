"""From finished pieces to a set: named as shards out of sight, moved into place, and opened by its README at the end.

`load_dataset` reads README.md first. So a README that names no data goes into place before anything else, and the real
one after everything else: at every moment between, the folder cannot be opened, and says why.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..durable_files import flush, write_text_whole, write_whole
from ..leaks import check_set
from ..schema import FEATURES, write_table
from .pieces import Piece

UNDER_WAY = """---
configs:
- config_name: slices
  data_files: this-set-is-not-complete-run-the-build-command-again.parquet
---
This set is being put in place. If nothing does so any more, run the command that builds it again.
"""


def built_report(out: Path) -> dict | None:
    """The ingest report of the complete set in a folder; None if there is none."""
    card, report = out / "README.md", out / "ingest_report.json"
    if not (report.is_file() and card.is_file() and (out / "slices").is_dir()):
        return None
    return None if card.read_text(encoding="utf-8") == UNDER_WAY else json.loads(report.read_text())


def assemble(out: Path, pieces: Sequence[Piece], splits: Sequence[str], report: dict, card: str) -> None:
    """Put a set in place of whatever set `out` holds. A run that is killed here can be run again.

    Args:
        out: folder of the set, with the pieces under `.building`.
        pieces: finished pieces in their order.
        splits: the split of each.
        report: goes to ingest_report.json.
        card: goes to README.md.

    Raises:
        ValueError: if a patient or a series would stand in two splits; the set that `out` holds stays.
    """
    staged = out / ".building" / "set"
    shutil.rmtree(staged, ignore_errors=True)
    for split in report["splits"]:
        _stage_split(staged, split, [piece for piece, own in zip(pieces, splits, strict=True) if own == split])
    check_set(staged)
    write_text_whole(staged / "ingest_report.json", json.dumps(report, indent=1) + "\n")
    write_text_whole(staged / "README.md", card)
    _move_into_place(staged, out)
    remove_pieces(out)


def remove_pieces(out: Path) -> None:
    """Pieces are second names of shards, or worth nothing, once the set is in place."""
    for name in ("set", "pieces"):
        shutil.rmtree(out / ".building" / name, ignore_errors=True)


def _stage_split(staged: Path, split: str, pieces: Sequence[Piece]) -> None:
    """One shard of slices per series, so that no pixel is read again; one of nodules and one of marks."""
    (staged / "slices").mkdir(parents=True, exist_ok=True)
    for number, piece in enumerate(pieces):
        name = f"{split}-{number:05d}-of-{len(pieces):05d}.parquet"
        _place(piece.path("slices"), staged / "slices" / name)
    flush(staged / "slices")
    for configuration in FEATURES:
        if configuration == "slices":
            continue
        table = pa.concat_tables([pq.read_table(piece.path(configuration)) for piece in pieces])
        # `datasets` cannot open a split without rows.
        if len(table):
            (staged / configuration).mkdir(exist_ok=True)
            shard = staged / configuration / f"{split}-00000-of-00001.parquet"
            write_whole(shard, lambda path, table=table: write_table(table, path))


def _place(piece: Path, shard: Path) -> None:
    """A second name for the same bytes, so that a run killed here finds its pieces again."""
    try:
        os.link(piece, shard)
    except OSError:
        # Some disks know no links: moved instead, the piece would be built again after a kill.
        os.replace(piece, shard)


def _move_into_place(staged: Path, out: Path) -> None:
    write_text_whole(staged / "under_way.md", UNDER_WAY)
    os.replace(staged / "under_way.md", out / "README.md")
    flush(out)
    for name in FEATURES:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("ingest_report.json", *reversed(FEATURES)):
        if (staged / name).exists():
            os.replace(staged / name, out / name)
    flush(out)
    os.replace(staged / "README.md", out / "README.md")
    flush(out)
