"""DICOM CT series: slices sorted by position, each rescaled to HU, stacked in patient axes – or a reason why not."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..volume import Rejection, Volume, find_padding_hu
from .dicom_header import SliceHeader, read_header
from .dicom_pixels import read_slice_hu
from .files import list_files, require_input

MAX_SHEAR = 0.01  # sideways shift per millimetre along the normal; 0.6 degrees of gantry tilt
SAME_POSITION_MM = 0.01


@dataclass(frozen=True)
class Stack:
    """One series, checked and in order, with everything but its pixels."""

    headers: tuple[SliceHeader, ...]  # from feet to head
    z_mm: np.ndarray  # (Z,) increasing
    affine_lps: np.ndarray  # (4, 4) index (x, y, z) of the turned voxels -> millimetres
    is_transposed: bool  # stored rows run along the patient's left-right axis
    flips: tuple[bool, bool]  # stored rows, columns run against posterior, left

    @property
    def series_id(self) -> str:
        """SeriesInstanceUID."""
        return self.headers[0].series_id

    @property
    def patient_id(self) -> str:
        """The collection's pseudonym."""
        return self.headers[0].patient_id

    @property
    def is_turned(self) -> bool:
        """Whether voxels differ from the stored frames by a flip or a transposition."""
        return self.is_transposed or any(self.flips)

    @property
    def num_bytes(self) -> int:
        """Size of the voxels as int16."""
        return 2 * len(self.headers) * self.headers[0].shape[0] * self.headers[0].shape[1]


def read_dicom_series(path: str | Path, max_gap_mm: float | None = None) -> Iterator[Volume | Rejection]:
    """Read every CT series below a folder, and say for every other file why it is none.

    Slices are grouped by patient and SeriesInstanceUID and sorted by position along the slice normal, never by file
    name or InstanceNumber. Headers are read once for the whole folder, pixels one series at a time.

    Args:
        path: a folder (zip archives in it are read in place), an archive, or a file.
        max_gap_mm: accept uneven gaps between slices up to this size; None refuses them.

    Yields:
        A `Volume` per complete series, then – or instead – a `Rejection` with reason and advice.

    Raises:
        ValueError: if there is nothing at `path`.
    """
    require_input(Path(path))
    stacks, rejections = index_dicom((read_entry(entry) for entry in list_files(Path(path))), max_gap_mm)
    yield from (load_volume(stack) for stack in stacks)
    yield from rejections


def read_entry(entry) -> SliceHeader | Rejection:
    """Header of a listed file; a file that could not even be listed stays the Rejection it is."""
    return entry if isinstance(entry, Rejection) else read_header(entry)


def index_dicom(
    entries: Iterable[SliceHeader | Rejection], max_gap_mm: float | None = None
) -> tuple[list[Stack], list[Rejection]]:
    """Sort headers into stacks, ordered by patient and series, and collect what was refused."""
    groups: dict[tuple[str, str], list[SliceHeader]] = defaultdict(list)
    rejections = []
    for entry in entries:
        if isinstance(entry, Rejection):
            rejections.append(entry)
        else:
            groups[entry.patient_id, entry.series_id].append(entry)
    stacks = []
    for key in sorted(groups):
        headers, copies = _drop_copies(groups[key])
        rejections += copies
        stack = arrange(headers, max_gap_mm)
        (rejections if isinstance(stack, Rejection) else stacks).append(stack)
    return stacks, rejections


def _drop_copies(headers: list[SliceHeader]) -> tuple[list[SliceHeader], list[Rejection]]:
    """Keep one file per slice where a folder holds the same one twice, a whole one before a damaged one."""
    kept: dict[tuple, SliceHeader] = {}
    copies = []
    for header in sorted(headers, key=lambda header: (header.damage is not None, header.file.name)):
        # Broken anonymisers give one UID to a whole series, so a copy must also lie in the same place.
        first = kept.setdefault((header.slice_uid or header.file.name, header.position_mm), header)
        if first is not header:
            copies.append(Rejection(header.file.name, f"a copy of {first.file.name}", "Nothing to do."))
    return list(kept.values()), copies


def arrange(headers: list[SliceHeader], max_gap_mm: float | None = None) -> Stack | Rejection:
    """Put the slices of one series in order from feet to head and check that they make a volume.

    Args:
        headers: all slices of one series, in any order.
        max_gap_mm: largest gap accepted where gaps are uneven.

    Returns:
        The stack, or a Rejection naming what is wrong: damaged or missing slices, two slices in one place, mixed
        sizes or orientations, a tilted gantry, sagittal or coronal slices, a single slice.
    """
    problem = _find_damage(headers) or _find_mixture(headers)
    if problem:
        return _refuse(headers, *problem)
    if len(headers) == 1:
        return _refuse(
            headers,
            "should have several slices; found one, so its slice spacing is unknown",
            "Add the rest of the series, if this is not a scout.",
            loses_scan=False,
        )
    column_axis, row_axis = np.array(headers[0].orientation).reshape(2, 3)
    normal = np.cross(column_axis, row_axis)
    if abs(np.linalg.norm(normal) - 1) > 1e-2 or abs(normal[2]) < 0.7:
        return _refuse(
            headers,
            f"should have axial slices; found a slice normal of {_rounded(normal)} (x, y, z)",
            "Reformatted sagittal and coronal series are left out; take the axial series of the same study.",
        )
    normal *= np.sign(normal[2])
    positions = np.array([header.position_mm for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    headers, positions = [headers[index] for index in order], positions[order]
    problem = _find_uneven_stack(headers, positions, normal, max_gap_mm)
    if problem:
        return _refuse(headers, *problem)
    return _place(headers, positions, normal)


def _find_damage(headers: list[SliceHeader]) -> tuple[str, str] | None:
    damaged = [header for header in headers if header.damage]
    if damaged:
        first = damaged[0]
        return (
            f"should have {len(headers)} whole slices; found {len(damaged)} damaged: "
            f"{first.file.name} ({first.damage})",
            "Download the series again: a scan with a hole is not used.",
        )
    return None


def _find_mixture(headers: list[SliceHeader]) -> tuple[str, str] | None:
    for what, values in (
        ("size (rows, columns)", {header.shape for header in headers}),
        ("pixel spacing in mm", {header.pixel_spacing_mm for header in headers}),
        ("orientation", {tuple(np.round(header.orientation, 3)) for header in headers}),
    ):
        if len(values) > 1:
            first, second, *_ = sorted(values)
            return (
                f"should have slices of one {what}; found {_rounded(first)} and {_rounded(second)}",
                "Two acquisitions share this series; separate them, or leave the series out.",
            )
    return None


def _find_uneven_stack(
    headers: list[SliceHeader], positions: np.ndarray, normal: np.ndarray, max_gap_mm: float | None
) -> tuple[str, str] | None:
    gaps_mm = np.diff(positions @ normal)
    if gaps_mm.min() < SAME_POSITION_MM:
        index = int(gaps_mm.argmin())
        pair = f"{headers[index].file.name} and {headers[index + 1].file.name}"
        return (
            f"should have one slice per position; found two at {positions[index] @ normal:.2f} mm: {pair}",
            "Two reconstructions or time points share this series; keep one of them.",
        )
    along = positions[-1] - positions[0]
    shear = np.linalg.norm(along - (along @ normal) * normal) / (along @ normal)
    if shear > MAX_SHEAR:
        tilt_degrees = np.degrees(np.arctan(shear))
        return (
            f"should be stacked along its slice normal; found a gantry tilt of {tilt_degrees:.1f} degrees",
            "Resample it to an untilted grid first, or leave it out: stacked as it is, the anatomy would be sheared.",
        )
    # Positions are often rounded to 0.1 mm, so 0.625 mm slices show gaps of 0.6 and 0.7.
    typical_mm = float(np.median(gaps_mm))
    is_even = np.abs(gaps_mm - typical_mm).max() <= max(0.1 * typical_mm, 0.11)
    if is_even or (max_gap_mm is not None and gaps_mm.max() <= max_gap_mm + 0.005):
        return None
    return (
        f"should have evenly spaced slices; found gaps from {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm "
        f"between {len(headers)} slices",
        f"A slice is probably missing; re-download the series, or pass max_gap_mm={gaps_mm.max():.2f} to accept it.",
    )


def _place(headers: list[SliceHeader], positions: np.ndarray, normal: np.ndarray) -> Stack:
    """Turn the stored frame so that rows run to posterior and columns to the left, and follow it in the affine."""
    column_axis, row_axis = np.array(headers[0].orientation).reshape(2, 3)
    row_mm, column_mm = headers[0].pixel_spacing_mm
    num_rows, num_columns = headers[0].shape
    column_step, row_step = column_axis * column_mm, row_axis * row_mm
    is_transposed = abs(column_axis[0]) < abs(row_axis[0])
    if is_transposed:
        column_step, row_step = row_step, column_step
        num_rows, num_columns = num_columns, num_rows
    flips = bool(row_step[1] < 0), bool(column_step[0] < 0)
    origin = positions[0].copy()
    if flips[0]:
        origin, row_step = origin + row_step * (num_rows - 1), -row_step
    if flips[1]:
        origin, column_step = origin + column_step * (num_columns - 1), -column_step
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = column_step, row_step, origin
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    return Stack(tuple(headers), positions @ normal, affine, bool(is_transposed), flips)


def load_volume(stack: Stack) -> Volume | Rejection:
    """Read the pixels of a stack into a `Volume`.

    Returns:
        The volume, or a Rejection if a slice cannot be decoded.
    """
    shape = stack.headers[0].shape
    voxels = np.empty((len(stack.headers), *(shape[::-1] if stack.is_transposed else shape)), dtype=np.int16)
    for index, header in enumerate(stack.headers):
        # RescaleSlope may differ between slices of one series (seen in PET/CT), so each is rescaled by its own.
        slice_hu = read_slice_hu(header)
        if isinstance(slice_hu, Rejection):
            return _refuse(list(stack.headers), f"has a slice that cannot be read: {slice_hu.reason}", slice_hu.advice)
        turned = slice_hu.T if stack.is_transposed else slice_hu
        voxels[index] = turned[:: -1 if stack.flips[0] else 1, :: -1 if stack.flips[1] else 1]
    return Volume(
        voxels=voxels,
        z_mm=stack.z_mm,
        affine_lps=stack.affine_lps,
        slice_uids=tuple(header.slice_uid for header in stack.headers),
        series_id=stack.series_id,
        patient_id=stack.patient_id,
        modality="ct",
        padding_hu=find_padding_hu(voxels),
    )


def _refuse(headers: list[SliceHeader], reason: str, advice: str, loses_scan: bool = True) -> Rejection:
    names = [header.file.name for header in headers]
    path = names[0] if len(names) == 1 else os.path.commonpath([os.path.dirname(name) for name in names]) or "."
    return Rejection(path, f"series {headers[0].series_id} {reason}", advice, len(names), loses_scan)


def _rounded(values) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
