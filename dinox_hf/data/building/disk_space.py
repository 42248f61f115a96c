"""How much disk a set will take, said and checked before a build starts."""

import shutil
from pathlib import Path

from .pieces import Piece

# Half of the raw size: measured 0.46 on LIDC-IDRI-0001, with something in hand for noisier scans.
PARQUET_SHARE = 0.5
MEGABYTE = 1_000_000


def state_disk_need(pieces: list[Piece], share: list[Piece], out: Path) -> None:
    """Print the size of the set and of the cache that training reads; stop if the disk cannot take it.

    Args:
        pieces: of the whole set.
        share: those that this job builds.
        out: folder of the set.

    Raises:
        RuntimeError: if what this job has still to build does not fit.
    """
    cache = sum(piece.scan.num_bytes for piece in pieces)
    unfinished = {piece.key for piece in pieces if piece.record() is None}
    rest, own_rest = (_parquet_bytes([piece for piece in part if piece.key in unfinished]) for part in (pieces, share))
    home = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(home).free
    print(
        f"{len(pieces):,} series, {sum(piece.scan.num_slices for piece in pieces):,} slices. Disk: about "
        f"{PARQUET_SHARE * cache / MEGABYTE:,.0f} MB for the Parquet set, {rest / MEGABYTE:,.0f} MB of it still to be "
        f"written ({free / MEGABYTE:,.0f} MB are free), and later {cache / MEGABYTE:,.0f} MB for the cache that "
        f"load_dataset makes."
    )
    if free < own_rest:
        raise RuntimeError(
            f"The disk of {out} should have {own_rest / MEGABYTE:,.0f} MB free; found {free / MEGABYTE:,.0f} MB. "
            f"Free some space, or choose an OUT on another disk. What is built already is kept."
        )
    if free < rest:
        print(f"The disk of {out} has room for this share, but not for those of all jobs.")


def _parquet_bytes(pieces: list[Piece]) -> int:
    return int(PARQUET_SHARE * sum(piece.scan.num_bytes for piece in pieces))
