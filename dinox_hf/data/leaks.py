"""The leak test: no patient, and no series under a second name, stands on both sides of any split.

Nodules, slices and series of one patient look alike. A network or a probe that has met some of them and is asked about
the others is asked about what it knows, so every function that splits ends here.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NUM_NAMED = 3  # of what stands on both sides, in an error


def check_no_leak(
    sides: Sequence | np.ndarray,
    patient_ids: Sequence[str] | np.ndarray,
    series_ids: Sequence[str] | np.ndarray | None = None,
    of: str = "this split",
) -> None:
    """Stop if a patient or a series stands on more than one side.

    Any split has this form: sets, folds, halves, draws of a few labels. A case that is used on two sides is listed
    twice. One patient under two names is noticed where a series of one name belongs to both; without that, no name
    tells one patient from two.

    Args:
        sides: (n,) the side of each case: a word or a number.
        patient_ids: (n,) whose case it is.
        series_ids: (n,) of which series; None where nobody knows, an empty name where nobody knows of this one.
        of: what was split, for the error.

    Raises:
        ValueError: naming the first patients or series and their sides; or if the lengths differ.
    """
    sides, patients = np.asarray(sides).astype(str), np.asarray(patient_ids).astype(str)
    series = np.full(len(sides), "") if series_ids is None else np.asarray(series_ids).astype(str)
    if not len(sides) == len(patients) == len(series):
        raise ValueError(
            f"The leak test expects a side, a patient and a series for each case; found {len(sides)}, "
            f"{len(patients)} and {len(series)} of them. Pass arrays of one length."
        )
    _refuse_two_sides(sides, patients, "patient", of)
    has_name = series != ""
    _refuse_two_sides(sides[has_name], series[has_name], "series", of)


def check_one_patient_a_series(
    patient_ids: Sequence[str] | np.ndarray, series_ids: Sequence[str] | np.ndarray, of: str
) -> None:
    """Stop if a series belongs to two patients: folds by patient would part what is one patient under two names.

    Args:
        patient_ids: (n,) whose case it is.
        series_ids: (n,) of which series; an empty name where nobody knows.
        of: where the cases are from, for the error.

    Raises:
        ValueError: as `check_no_leak`.
    """
    check_no_leak(patient_ids, patient_ids, series_ids, f"any split by patient of {of}")


def check_set(folder: str | Path) -> None:
    """Stop if a built set has a patient or a series in two of its splits, or a series of two patients anywhere.

    Slices, nodules and marks are read together: a patient's nodules in one split and slices in another are a leak too.

    Args:
        folder: of the set; the name of a shard begins with its split.

    Raises:
        ValueError: as `check_no_leak`.
    """
    tables = []
    for path in sorted(Path(folder).glob("*/*.parquet")):
        names = pq.read_table(path, columns=["patient_id", "series_id"])
        names = names.group_by(names.column_names).aggregate([])
        split = pa.array([path.name.split("-")[0]] * len(names), pa.string())
        tables.append(names.append_column("split", split))
    if tables:
        all_names = pa.concat_tables(tables)
        names = ("split", "patient_id", "series_id")
        splits, patients, series = (pc.fill_null(all_names[name], "").to_pylist() for name in names)
        check_no_leak(splits, patients, series, f"the set in {folder}")
        check_one_patient_a_series(patients, series, f"the set in {folder}")


def _refuse_two_sides(sides: np.ndarray, names: np.ndarray, what: str, of: str) -> None:
    pairs = np.unique(np.stack([names, sides], axis=1), axis=0)  # in the order of the names
    found, num_sides = np.unique(pairs[:, 0], return_counts=True)
    leaked = found[num_sides > 1]
    if len(leaked):
        first = "; ".join(
            f"{what} {name} in {' and '.join(pairs[pairs[:, 0] == name, 1])}" for name in leaked[:_NUM_NAMED]
        )
        more = f"; {len(leaked) - _NUM_NAMED:,} more" if len(leaked) > _NUM_NAMED else ""
        raise ValueError(
            f"Every patient and every series belongs on one side of {of}; found {first}{more}. "
            f"Split by patient_id, never by nodule, slice or series; a series of two patients is one patient under "
            f"two names: give both the same patient_id."
        )
