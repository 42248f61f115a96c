"""Slices of one series in order from feet to head: where they lie, and whether they make a volume."""

from dataclasses import dataclass

import numpy as np

from .dicom_header import UNTOLD, SliceForm, SliceHeader

MAX_SHEAR = 0.01  # sideways shift per millimetre along the normal; 0.6 degrees of gantry tilt
MAX_STRAY_PX = 0.5  # of a slice from the straight line through all of them
SAME_POSITION_MM = 0.01


@dataclass(frozen=True)
class Problem:
    """Why slices make no volume."""

    reason: str
    advice: str
    loses_scan: bool = True


@dataclass(frozen=True)
class Placement:
    """Slices in order, and where the turned voxels lie."""

    headers: tuple[SliceHeader, ...]  # from feet to head
    z_mm: np.ndarray  # (Z,) increasing
    affine_lps: np.ndarray  # (4, 4) index (x, y, z) of the turned voxels -> millimetres
    is_transposed: bool  # stored rows run along the patient's left-right axis
    flips: tuple[bool, bool]  # stored rows, columns run against posterior, left


def place_slices(headers: list[SliceHeader], max_gap_mm: float | None = None) -> Placement | Problem:
    """Put the slices of one series in order from feet to head and check that they make a volume.

    Spacing comes from positions alone, never from SliceThickness: overlapping slices are as good as any.

    Args:
        headers: all slices of one series, in any order.
        max_gap_mm: largest gap accepted where gaps are uneven; the affine then holds the mean gap, z_mm the true ones.

    Returns:
        Their placement, or a Problem: missing slices, two slices in one place, mixed sizes, kernels or orientations, a
        tilted gantry, sagittal or coronal slices, a single slice.
    """
    problem = _find_mixture(headers)
    if problem:
        return problem
    if len(headers) == 1:
        return Problem(
            "should have several slices; found one, so its slice spacing is unknown",
            "Add the rest of the series, if this is not a scout.",
            loses_scan=False,
        )
    column_axis, row_axis = np.array(headers[0].form.orientation).reshape(2, 3)
    normal = np.cross(column_axis, row_axis)
    if abs(normal[2]) < 0.7:
        return Problem(
            f"should have axial slices; found a slice normal of {_rounded(normal)} (x, y, z)",
            "Reformatted sagittal and coronal series are left out; take the axial series of the same study.",
        )
    normal *= np.sign(normal[2])
    positions = np.array([header.position_mm for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    headers, positions = [headers[index] for index in order], positions[order]
    problem = _find_repeats(headers, positions @ normal) or _find_bent_stack(headers, positions, normal)
    problem = problem or _find_uneven_gaps(np.diff(positions @ normal), max_gap_mm)
    return problem or _place(headers, positions, normal)


def _find_mixture(headers: list[SliceHeader]) -> Problem | None:
    first = headers[0].form
    for form in {id(header.form): header.form for header in headers}.values():
        for what, one, other, tolerance in (
            ("size (rows, columns)", first.shape, form.shape, 0),
            ("pixel spacing in mm", first.pixel_spacing_mm, form.pixel_spacing_mm, 1e-4 * min(first.pixel_spacing_mm)),
            ("orientation", first.orientation, form.orientation, 2e-3),
            ("thickness in mm", (first.thickness_mm or 0,), (form.thickness_mm or 0,), 0.01),
            ("way to HU (0: none stated)", (first.has_rescale,), (form.has_rescale,), 0),
            ("number format (bits, lowest bit, sign)", _number_format(first), _number_format(form), 0),
        ):
            if np.abs(np.subtract(one, other, dtype=float)).max() > tolerance:
                return Problem(
                    f"should have slices of one {what}; found {_rounded(min(one, other))} and "
                    f"{_rounded(max(one, other))}",
                    "Two acquisitions share this series; separate them, or leave the series out.",
                )
        if form.kernel != first.kernel:
            return Problem(
                f"should have slices of one kernel; found {_kernel_name(first)} and {_kernel_name(form)}",
                "Two reconstructions share this series; keep one of them.",
            )
    return None


def _number_format(form: SliceForm) -> tuple[int, ...]:
    return form.bits_stored, form.high_bit + 1 - form.bits_stored, int(form.is_signed)


def _kernel_name(form: SliceForm) -> str:
    return form.kernel if not form.kernel.startswith(UNTOLD) else "another"


def _find_repeats(headers: list[SliceHeader], z_mm: np.ndarray) -> Problem | None:
    gaps_mm = np.diff(z_mm)
    if z_mm[-1] - z_mm[0] < SAME_POSITION_MM:
        return Problem(
            f"should be a stack; found {len(headers)} slices in one place",
            "Nothing to do: that is how the arrival of contrast agent is watched.",
            loses_scan=False,
        )
    if gaps_mm.min() >= SAME_POSITION_MM:
        return None
    index = int(gaps_mm.argmin())
    pair = f"{_name(headers[index])} and {_name(headers[index + 1])}"
    return Problem(
        f"should have one slice per position; found two at {z_mm[index]:.2f} mm: {pair}",
        "Two reconstructions or time points share this series; keep one of them.",
    )


def _name(header: SliceHeader) -> str:
    frame = header.slice_uid.rpartition("#")
    return f"{header.file.name} frame {frame[2]}" if frame[1] else header.file.name


def _find_bent_stack(headers: list[SliceHeader], positions: np.ndarray, normal: np.ndarray) -> Problem | None:
    """Slices must lie straight above one another: not leaning, as under a tilted gantry, nor one of them aside."""
    along = positions[-1] - positions[0]
    shear = np.linalg.norm(along - (along @ normal) * normal) / (along @ normal)
    # The line is that of the median lean, so that one slice aside at an end is no tilt.
    steps = np.diff(positions, axis=0)
    sideways = steps - np.outer(steps @ normal, normal)
    lean = np.median(sideways / (steps @ normal)[:, None], axis=0)
    offsets = positions - positions @ normal[:, None] * (normal + lean)
    stray_mm = np.linalg.norm(offsets - np.median(offsets, axis=0), axis=1)
    if stray_mm.max() > max(MAX_STRAY_PX * min(headers[0].form.pixel_spacing_mm), 0.2):
        return Problem(
            f"should have slices straight above one another; found {_name(headers[int(stray_mm.argmax())])} "
            f"{stray_mm.max():.1f} mm aside",
            "The table moved, or a slice belongs to another series; leave the series out, or that slice.",
        )
    if shear <= MAX_SHEAR:
        return None
    return Problem(
        f"should be stacked along its slice normal; found a gantry tilt of {np.degrees(np.arctan(shear)):.1f} degrees",
        "Resample it to an untilted grid first, or leave it out: stacked as it is, the anatomy would be sheared.",
    )


def _find_uneven_gaps(gaps_mm: np.ndarray, max_gap_mm: float | None) -> Problem | None:
    # Positions are often rounded to 0.1 mm, so 0.625 mm slices show gaps of 0.6 and 0.7.
    typical_mm = float(np.median(gaps_mm))
    is_even = np.abs(gaps_mm - typical_mm).max() <= max(0.1 * typical_mm, 0.11)
    if is_even or (max_gap_mm is not None and gaps_mm.max() <= max_gap_mm + 0.005):
        return None
    return Problem(
        f"should have evenly spaced slices; found gaps from {gaps_mm.min():.2f} to {gaps_mm.max():.2f} mm "
        f"between {len(gaps_mm) + 1} slices",
        f"A slice is probably missing; re-download the series, or accept it with max_gap_mm={gaps_mm.max():.2f} "
        f"(--max-gap-mm {gaps_mm.max():.2f}).",
    )


def _place(headers: list[SliceHeader], positions: np.ndarray, normal: np.ndarray) -> Placement:
    column_axis, row_axis = np.array(headers[0].form.orientation).reshape(2, 3)
    row_mm, column_mm = headers[0].form.pixel_spacing_mm
    num_rows, num_columns = headers[0].form.shape
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
    return Placement(tuple(headers), positions @ normal, affine, bool(is_transposed), flips)


def _rounded(values) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
