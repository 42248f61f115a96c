"""DICOM CT series: slices sorted by position, each rescaled to HU, stacked in patient axes – or a reason why not."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..volume import DARKEST_TISSUE_HU, Rejection, Volume, find_padding_hu
from .dicom_geometry import SAME_POSITION_MM, Placement, Problem, place_slices
from .dicom_header import BrokenSlice, SliceForm, SliceHeader, read_header
from .dicom_pixels import read_slice_hu, read_slices_hu
from .files import RawFile, UnreadableFile, list_files, require_input

DicomEntry = tuple[SliceHeader, ...] | BrokenSlice | Rejection  # what one file holds


@dataclass(frozen=True)
class Stack:
    """One series, checked and in order, with everything but its pixels."""

    placement: Placement

    @property
    def series_id(self) -> str:
        """SeriesInstanceUID."""
        return self.placement.headers[0].form.series_id

    @property
    def patient_id(self) -> str:
        """The collection's pseudonym."""
        return self.placement.headers[0].form.patient_id

    @property
    def is_turned(self) -> bool:
        """Whether voxels differ from the stored frames by a flip or a transposition."""
        return self.placement.is_transposed or any(self.placement.flips)

    @property
    def files(self) -> tuple[RawFile, ...]:
        """Each once: one per slice, or a few with many frames."""
        return tuple(dict.fromkeys(header.file for header in self.placement.headers))

    @property
    def slice_uids(self) -> tuple[str, ...]:
        """SOPInstanceUIDs from feet to head."""
        return tuple(header.slice_uid for header in self.placement.headers)

    @property
    def num_slices(self) -> int:
        """Length of the z axis."""
        return len(self.placement.headers)

    @property
    def num_bytes(self) -> int:
        """Size of the voxels as int16."""
        rows, columns = self.placement.headers[0].form.shape
        return 2 * self.num_slices * rows * columns

    def load(self) -> Volume | Rejection:
        """Read the pixels; a Rejection if a slice cannot be decoded."""
        return load_volume(self.placement)


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
    entries = (entry if isinstance(entry, Rejection) else read_header(entry) for entry in list_files(Path(path)))
    stacks, rejections = index_dicom(entries, max_gap_mm)
    yield from (stack.load() for stack in stacks)
    yield from rejections


def index_dicom(entries: Iterable[DicomEntry], max_gap_mm: float | None = None) -> tuple[list[Stack], list[Rejection]]:
    """Sort headers into stacks, ordered by patient and series, and collect what was refused.

    A series with a broken slice is refused as a whole, and so is the only series of a folder in which a file cannot be
    read at all: the missing slice could be one of its ends, where no gap would show.
    """
    groups: dict[tuple[str, str], list[SliceHeader | BrokenSlice]] = defaultdict(list)
    rejections = []
    forms: dict[SliceForm, SliceForm] = {}
    for entry in entries:
        if isinstance(entry, Rejection):
            rejections.append(entry)
        elif isinstance(entry, BrokenSlice):
            groups[entry.patient_id, entry.series_id].append(entry)
        else:
            for header in entry:
                # Forms come from many processes, and equal ones become one object here.
                header = replace(header, form=forms.setdefault(header.form, header.form))
                groups[header.form.patient_id, header.form.series_id].append(header)
    folders = _folders(groups)
    lost = {os.path.dirname(entry.path): entry for entry in rejections if isinstance(entry, UnreadableFile)}
    stacks = []
    for key in sorted(groups):
        slices, copies = _drop_copies(groups[key])
        rejections += copies
        stack = _arrange(slices, max_gap_mm)
        neighbours = {other for folder in folders[key] for other in folders[folder]} - {key}
        missing = [lost[folder] for folder in folders[key] & lost.keys()] if not neighbours else []
        missing += [
            groups[other][0]
            for other in sorted(neighbours)
            if (set(other) & set(key) or len(neighbours) == 1) and _may_belong(groups[other], slices)
        ]
        if isinstance(stack, Stack) and missing:
            stack = _refuse_hole(slices, missing[0])
        (rejections if isinstance(stack, Rejection) else stacks).append(stack)
    return stacks, rejections


def _may_belong(others: list, slices: list) -> bool:
    """Whether the only slice of another series lies on a free place of this one: its UID was damaged, most likely.

    Of a broken slice the place is unknown, so it may always.
    """
    other, first = others[0], slices[0]
    if len(others) > 1 or isinstance(first, BrokenSlice):
        return False
    if isinstance(other, BrokenSlice):
        return True
    same = ("shape", "orientation", "pixel_spacing_mm")
    if any(getattr(other.form, name) != getattr(first.form, name) for name in same):
        return False
    normal = np.cross(*np.array(first.form.orientation).reshape(2, 3))
    steps = np.array([slice_.position_mm for slice_ in slices]) - np.array(other.position_mm)
    heights = np.abs(steps @ normal)
    sideways = np.linalg.norm(steps[0] - steps[0] @ normal * normal)
    gap_mm = np.ptp(steps @ normal) / max(1, len(slices) - 1)
    return sideways < SAME_POSITION_MM and SAME_POSITION_MM < heights.min() < 1.1 * gap_mm


def _folders(groups: dict) -> dict:
    """Folders of each series, and series of each folder."""
    folders = defaultdict(set)
    for key, slices in groups.items():
        for slice_ in slices:
            folder = os.path.dirname(slice_.file.name)
            folders[key].add(folder)
            folders[folder].add(key)
    return folders


def _drop_copies(slices: list) -> tuple[list, list[Rejection]]:
    """Keep one file per slice where a folder holds the same one twice, a whole one before a broken one."""
    kept: dict[tuple, SliceHeader | BrokenSlice] = {}
    copies = []
    whole_uids = {slice_.slice_uid: slice_ for slice_ in slices if isinstance(slice_, SliceHeader)}
    for slice_ in sorted(slices, key=lambda slice_: slice_.file.name):
        if isinstance(slice_, BrokenSlice):
            first = whole_uids.get(slice_.slice_uid) or kept.setdefault((slice_.file.name,), slice_)
        else:
            # Broken anonymisers give one UID to a whole series, so a copy must also lie in the same place.
            first = kept.setdefault((slice_.slice_uid, slice_.position_mm), slice_)
        if first is not slice_:
            copies.append(Rejection(slice_.file.name, f"a copy of {first.file.name}", "Nothing to do."))
    return list(kept.values()), copies


def _arrange(slices: list, max_gap_mm: float | None) -> Stack | Rejection:
    """The stack of one series, or why there is none."""
    broken = [slice_ for slice_ in slices if isinstance(slice_, BrokenSlice)]
    if len(slices) == 1 and broken:
        return Rejection(broken[0].file.name, broken[0].reason, broken[0].advice, loses="scan")
    if broken:
        reason = (
            f"should have {len(slices)} whole slices; found {len(broken)} damaged: "
            f"{broken[0].file.name} ({broken[0].reason})"
        )
        return _refuse(slices, Problem(reason, broken[0].advice))
    placement = place_slices(slices, max_gap_mm)
    return Stack(placement) if isinstance(placement, Placement) else _refuse(slices, placement)


def _refuse_hole(slices: list[SliceHeader], missing: Rejection | BrokenSlice | SliceHeader) -> Rejection:
    if isinstance(missing, Rejection):
        reason = f"may lack a slice, since {missing.path} beside it cannot be read"
    elif isinstance(missing, BrokenSlice):
        reason = f"may lack a slice, since {missing.file.name} beside it is damaged"
    else:
        reason = f"may lack a slice, since {missing.file.name} beside it fits but names another series or patient"
    advice = "Download that file again, or move it out of the input if it is no slice of this series."
    return _refuse(slices, Problem(reason, advice))


def load_volume(placement: Placement) -> Volume | Rejection:
    """Read the pixels of placed slices into a `Volume`.

    Returns:
        The volume, or a Rejection if a slice cannot be decoded.
    """
    headers = list(placement.headers)
    rows, columns = headers[0].form.shape
    # A damaged header can declare any size, and only a decoded slice proves it: memory for all comes after the first.
    first = read_slice_hu(headers[0])
    rejection = first if isinstance(first, Rejection) else None
    if rejection is None:
        voxels = np.empty(
            (len(headers), *((columns, rows) if placement.is_transposed else (rows, columns))), dtype=np.int16
        )
        stored = voxels[:, :: -1 if placement.flips[0] else 1, :: -1 if placement.flips[1] else 1]
        stored = stored.swapaxes(1, 2) if placement.is_transposed else stored
        stored[0] = first
        rejection = read_slices_hu(headers[1:], stored[1:])
    if rejection is not None:
        return _refuse(headers, Problem(f"has a slice that cannot be read: {rejection.reason}", rejection.advice))
    if not headers[0].form.has_rescale and voxels.min() >= DARKEST_TISSUE_HU:
        return _refuse(
            headers,
            Problem(
                "should hold HU, with air far below 0, or say how to get them; found neither",
                "Get a copy with RescaleSlope and RescaleIntercept.",
            ),
        )
    return Volume(
        voxels=voxels,
        z_mm=placement.z_mm,
        affine_lps=placement.affine_lps,
        slice_uids=tuple(header.slice_uid for header in headers),
        series_id=headers[0].form.series_id,
        patient_id=headers[0].form.patient_id,
        modality="ct",
        padding_hu=find_padding_hu(voxels),
    )


def _refuse(slices: list, problem: Problem) -> Rejection:
    names = list(dict.fromkeys(slice_.file.name for slice_ in slices))
    path = names[0] if len(names) == 1 else os.path.commonpath([os.path.dirname(name) for name in names]) or "."
    first = slices[0]
    series_id = first.series_id if isinstance(first, BrokenSlice) else first.form.series_id
    return Rejection(
        path,
        f"series {series_id} {problem.reason}",
        problem.advice,
        len(names),
        "scan" if problem.loses_scan else "nothing",
    )
