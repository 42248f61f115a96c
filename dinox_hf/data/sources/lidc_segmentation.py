"""The segments of a DICOM segmentation that LIDC's nodules are stored in: one reader's nodule each."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from ..readers.files import RawFile
from .lidc_masks import Frame

# The names that LIDC's sites gave to nodules; anything else after "Annotation" is not LIDC's, and is not kept.
LABEL = re.compile(r"Nodule \d+ - Annotation ((?:Nodule |[A-Z]{2,8}\d*_)?\d{1,8})")

SegmentKey = tuple[str, int]  # SOPInstanceUID of the segmentation, number of the segment


class OtherSegmentationError(ValueError):
    """A segmentation of LIDC that is stored in a way that is not read here; its words are ours."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One reader's nodule in a segmentation."""

    file: RawFile
    key: SegmentKey
    series_id: str  # of the scan
    series_number: int  # rises with reader and nodule
    name: str  # the reader's own
    image_shape: tuple[int, int]
    frames: tuple[Frame, ...]


def read_segments(file: RawFile, dataset: Dataset) -> Iterator[Segment]:
    """The segments that carry a label of LIDC; a segmentation of anything else has none.

    Raises:
        OtherSegmentationError: if it is LIDC's, but stored in a way that is not read here.
    """
    names = {int(item.SegmentNumber): _name_of(item) for item in dataset.SegmentSequence}
    if not any(names.values()):
        return
    frames = _read_frames(dataset)
    for number, name in names.items():
        if name is not None:
            yield Segment(
                file=file,
                key=(str(dataset.SOPInstanceUID), number),
                series_id=str(dataset.ReferencedSeriesSequence[0].SeriesInstanceUID),
                series_number=int(dataset.get("SeriesNumber") or 0),
                name=name,
                image_shape=(int(dataset.Rows), int(dataset.Columns)),
                frames=tuple(frame for segment, frame in frames if segment == number),
            )


def _name_of(segment: Dataset) -> str | None:
    texts = (str(segment.get(tag) or "").strip() for tag in ("SegmentLabel", "SegmentDescription"))
    return next((match[1] for match in map(LABEL.fullmatch, texts) if match), None)


def _read_frames(dataset: Dataset) -> list[tuple[int, Frame]]:
    """Number of the segment and pixels of every frame that is not empty."""
    if (dataset.get("SegmentationType"), dataset.BitsAllocated) != ("BINARY", 1):
        raise OtherSegmentationError("it should be of type BINARY with one bit a pixel")
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    groups = dataset.PerFrameFunctionalGroupsSequence
    if len(groups) != len(pixels):
        raise OtherSegmentationError(f"{len(pixels)} frames, but places for {len(groups)}")
    shared = dataset.SharedFunctionalGroupsSequence[0] if "SharedFunctionalGroupsSequence" in dataset else Dataset()
    return [
        (_segment_number(group, shared), _crop(group, shared, frame))
        for group, frame in zip(groups, pixels, strict=True)
        if frame.any()
    ]


def _segment_number(group: Dataset, shared: Dataset) -> int:
    return int(_first(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)


def _crop(group: Dataset, shared: Dataset, frame: np.ndarray) -> Frame:
    across, down = np.reshape(_first(group, shared, "PlaneOrientationSequence").ImageOrientationPatient, (2, 3))
    if not np.allclose([across, down], [[1, 0, 0], [0, 1, 0]], atol=1e-3):
        raise OtherSegmentationError("frames should lie like the slices, rows to the left and columns to posterior")
    position = np.array(_first(group, shared, "PlanePositionSequence").ImagePositionPatient, dtype=float)
    rows, columns = (np.flatnonzero(frame.any(axis=axis)) for axis in (1, 0))
    return Frame(
        start=np.array([rows[0], columns[0]]),
        pixels=frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(bool),
        z_mm=float(np.cross(across, down) @ position),
        slice_uid=_source_uid(group),
    )


def _source_uid(group: Dataset) -> str:
    """SOPInstanceUID of the slice that a frame was drawn on; empty if the file does not say."""
    sources = [
        str(source.ReferencedSOPInstanceUID)
        for derivation in group.get("DerivationImageSequence") or ()
        for source in derivation.get("SourceImageSequence") or ()
    ]
    return sources[0] if len(sources) == 1 else ""


def _first(group: Dataset, shared: Dataset, name: str) -> Dataset:
    """A functional group of the frame, or else that of all frames."""
    return (group.get(name) or shared[name].value)[0]
