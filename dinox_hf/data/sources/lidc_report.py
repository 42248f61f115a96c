"""The ratings in a DICOM report of TID 1500: one measurement group for each segment."""

from collections.abc import Iterator

import numpy as np
from pydicom import Dataset

from ..readers.files import RawFile
from ..schema import CHARACTERISTICS
from .lidc_codes import Code, characteristic_of, rating_of
from .lidc_nodules import rating_on_scale
from .lidc_segmentation import SegmentKey

# Concepts of DICOM (scheme DCM) in a report of TID 1500.
MEASUREMENT_GROUP = "125007"
REFERENCED_SEGMENT = "121191"

Ratings = dict[str, int | None]


def read_report(_: RawFile, dataset: Dataset) -> Iterator[tuple[SegmentKey, Ratings]]:
    """Ratings of every segment that a report speaks of; of a report without LIDC's characteristics, nothing."""
    for item in _items(dataset):
        if _code(item, "ConceptNameCodeSequence").value == MEASUREMENT_GROUP:
            children = list(item.get("ContentSequence") or ())
            ratings = dict(filter(None, map(_read_rating, children)))
            keys = [key for child in children if (key := _referenced_segment(child))]
            if ratings and keys:
                yield keys[0], {name: ratings.get(name) for name in CHARACTERISTICS}


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """Every item of the content tree, top down."""
    for item in dataset.get("ContentSequence") or ():
        yield item
        yield from _items(item)


def _read_rating(item: Dataset) -> tuple[str, int | None] | None:
    if item.get("ValueType") != "CODE":
        return None
    name = characteristic_of(_code(item, "ConceptNameCodeSequence"))
    if name is None:
        return None
    return name, rating_on_scale(name, rating_of(name, _code(item, "ConceptCodeSequence")))


def _referenced_segment(item: Dataset) -> SegmentKey | None:
    if _code(item, "ConceptNameCodeSequence").value != REFERENCED_SEGMENT:
        return None
    reference = item.ReferencedSOPSequence[0]
    numbers = np.atleast_1d(reference.ReferencedSegmentNumber)
    return str(reference.ReferencedSOPInstanceUID), int(numbers[0])


def _code(item: Dataset, name: str) -> Code:
    sequence = item.get(name) or [Dataset()]
    return Code(*(str(sequence[0].get(part) or "") for part in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")))
