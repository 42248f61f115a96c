"""LIDC annotations as DICOM: one segmentation (SEG) and one report (SR, TID 1500) per reader and nodule.

Imaging Data Commons ships LIDC-IDRI without XML, but with these: Fedorov et al., Medical Physics 2020, "DICOM
re-encoding of volumetrically annotated Lung Imaging Database Consortium (LIDC) nodules". Every segment is labelled
`Nodule 1 - Annotation IL057_127364`, the second part being the reader's own name of it; the report holds the nine
ratings as codes. What differs from the XML:

* Nodules below 3 mm and non-nodules are not in them.
* Nobody says which nodules are one reader's; names tell, see `readers_of`.
* `Nodule 1` counts what the converter held for one nodule: outlines within a slice thickness of each other. It is not
  used. Masks are brought together as those from XML are, so that both give the same nodules.
* The converter filled outlines as the package pylidc does: points of the outline are no part of the mask, as here, but
  a pixel is inside if its centre lies within the polygon, and lines between points that do not touch are no border.
  Over all of LIDC-IDRI this changes 79 of 6,859 masks, by 322 of 5,952,992 voxels; no mask of the converter is empty.

Only pixels, ratings, positions, UIDs and labels of that very form are kept: no name of a person or a place.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from pydicom import Dataset, dcmread
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, EnhancedSRStorage, SegmentationStorage

from ..readers.files import RawFile
from ..schema import CHARACTERISTICS
from ..volume import Rejection
from .lidc_nodules import Annotation, ReaderNodule
from .lidc_readers import readers_of
from .lidc_report import Ratings, read_report
from .lidc_segmentation import OtherSegmentationError, Segment, SegmentKey, read_segments

REPORTS = {EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage}


def read_dicom_annotations(files: Iterable[RawFile]) -> Iterator[Annotation | Rejection]:
    """Read all SEG and SR files of LIDC among some files.

    Args:
        files: any files; those of other kinds and collections are passed over.

    Yields:
        An Annotation per scan, from all its files; a Rejection for a damaged file.
    """
    segments: dict[SegmentKey, Segment] = {}
    reports: dict[SegmentKey, tuple[RawFile, Ratings]] = {}
    for file in files:
        kind = _kind_of(file)
        if kind != SegmentationStorage and kind not in REPORTS:
            continue
        try:
            if kind == SegmentationStorage:
                segments |= {segment.key: segment for segment in _read_file(file, read_segments)}
            else:
                reports |= {key: (file, ratings) for key, ratings in _read_file(file, read_report)}
        except OtherSegmentationError as error:
            advice = "Put the XML of this scan beside it instead."
            yield Rejection(file.name, f"a DICOM segmentation that is not read: {error}", advice, loses="annotations")
        # Damaged bytes make a parser fail in any way at all. Its words may quote the file: tell its kind alone.
        except Exception as error:
            what = "segmentation" if kind == SegmentationStorage else "report"
            reason = f"a damaged DICOM {what} ({type(error).__name__})"
            yield Rejection(file.name, reason, "Download the file again.", loses="annotations")
    yield from _orphans(segments, reports)
    by_series = defaultdict(list)
    for segment in segments.values():
        by_series[segment.series_id].append(segment)
    yield from (_annotation(by_series[series_id], reports) for series_id in sorted(by_series))


def _kind_of(file: RawFile) -> str | None:
    """SOP class of a DICOM file, None for any other file."""
    try:
        with file.open() as stream:
            if stream.read(132)[128:] != b"DICM":
                return None
            stream.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                dataset = dcmread(stream, stop_before_pixels=True, specific_tags=["SOPClassUID"])
                # A damaged one may be several, which are no key of a set.
                return str(dataset.get("SOPClassUID"))
    # Readers of scans report what cannot be read at all.
    except Exception:
        return None


def _read_file(file: RawFile, read: Callable[[RawFile, Dataset], Iterator]) -> list:
    """All that `read` finds in a file. Values that break a rule of DICOM are parsed late, so it ends in here."""
    with file.open() as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(read(file, dcmread(stream)))


def _orphans(segments: dict, reports: dict) -> Iterator[Rejection]:
    """Reports whose segmentation is not there: ratings of nobody knows which pixels."""
    for key in reports.keys() - segments.keys():
        file, _ = reports[key]
        yield Rejection(
            file.name,
            "ratings of a nodule whose segmentation is not in the input, or is damaged",
            "Download the SEG series of this study as well.",
            loses="annotations",
        )


def _annotation(segments: list[Segment], reports: dict[SegmentKey, tuple[RawFile, Ratings]]) -> Annotation:
    """All segments of one scan as one annotation, readers in the order in which they were written."""
    # A copy of a file, or the same nodules once more in a file of all of them, would count a reader twice.
    different = {_content(segment): segment for segment in sorted(segments, key=_order, reverse=True)}
    segments = sorted(different.values(), key=_order)
    files = [segment.file for segment in segments] + [reports[s.key][0] for s in segments if s.key in reports]
    files = sorted(set(files), key=lambda file: file.name)
    readers = readers_of([segment.name for segment in segments])
    not_rated = dict.fromkeys(CHARACTERISTICS)
    num_not_rated = sum(segment.key not in reports for segment in segments)
    return Annotation(
        path=segments[0].file.name,
        stamp="\n".join(file.stamp() for file in files),
        series_id=segments[0].series_id,
        nodules=tuple(
            ReaderNodule(
                reader=reader,
                name=segment.name,
                ratings=reports[segment.key][1] if segment.key in reports else not_rated,
                drawings=segment.frames,
                image_shape=segment.image_shape,
            )
            for reader, segment in zip(readers, segments, strict=True)
        ),
        warnings=(f"{num_not_rated} of {len(segments)} segmented nodules have no report with ratings",)
        if num_not_rated
        else (),
        other_paths=tuple(file.name for file in files if file.name != segments[0].file.name),
    )


def _content(segment: Segment) -> tuple:
    drawn = sorted((frame.z_mm, *frame.start, frame.pixels.tobytes()) for frame in segment.frames)
    return segment.name, tuple(drawn)


def _order(segment: Segment) -> tuple:
    return segment.series_number, segment.key[1], segment.name, segment.file.name
