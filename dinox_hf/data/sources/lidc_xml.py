"""One XML file of LIDC (`LidcReadMessage`, as TCIA ships it): four reading sessions with outlines, ratings and points.

A nodule of 3 mm or more has outlines and nine ratings, a smaller one a single point, and so has a non-nodule.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np

from ..readers.files import RawFile
from ..schema import CHARACTERISTICS
from ..volume import Rejection
from .lidc_masks import Outline
from .lidc_nodules import Annotation, Mark, ReaderNodule, rating_on_scale

# The XML writes a characteristic as we do, except for this one.
XML_NAMES = {"internal_structure": "internalStructure"}
LARGEST_COORDINATE = 4096  # px; no scanner has larger slices, and a mask of more would fill the memory
OTHER_KINDS = {
    "IdriReadMessage": "annotations of a chest X-ray (IdriReadMessage), of which a CT set holds none",
}


class OutsideImageError(ValueError):
    """An outline runs where no image is."""


def read_xml(file: RawFile) -> Annotation | Rejection:
    """Read one XML file of LIDC, or say why it is none."""
    try:
        root = _without_namespaces(ET.fromstring(file.read_bytes()))
        if root.tag != "LidcReadMessage":
            reason = OTHER_KINDS.get(root.tag, "XML of another kind, not LidcReadMessage")
            return Rejection(file.name, reason, "Nothing to do.")
        return _read_message(file, root)
    # Damaged bytes make a parser fail in any way at all; every one of them means the same to the user.
    except Exception as error:
        # Only our own words are told: an error of the parser may quote what stood in the file.
        damage = error if isinstance(error, OutsideImageError) else type(error).__name__
        return Rejection(
            file.name,
            f"damaged LIDC XML ({damage})",
            "Download the annotation file again.",
            loses="annotations",
        )


def _without_namespaces(root: ET.Element) -> ET.Element:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _read_message(file: RawFile, root: ET.Element) -> Annotation:
    warnings, nodules, marks = [], [], []
    for reader, session in enumerate(_different_sessions(root, warnings)):
        for number, element in enumerate(session.iter("unblindedReadNodule"), 1):
            whose = f"reader {reader + 1}'s nodule {number}"
            name = _text(element, "noduleID")
            ratings = _read_ratings(element)
            outlines = [outline for outline in map(_read_outline, element.iter("roi")) if len(outline.points)]
            if not outlines:
                warnings.append(f"{whose} is left out: it has no point")
            elif _is_small(outlines, ratings):
                marks.append(_small_nodule(reader, name, outlines))
                if any(len(outline.points) > 1 for outline in outlines):
                    warnings.append(f"{whose} is outlined but not rated: taken as a nodule below 3 mm")
            else:
                nodules.append(ReaderNodule(reader, name, ratings, tuple(outlines)))
        marks += (_read_non_nodule(reader, element) for element in session.iter("nonNodule"))
    return Annotation(
        path=file.name,
        stamp=file.stamp(),
        series_id=_text(root, "ResponseHeader/SeriesInstanceUid"),
        nodules=tuple(nodules),
        marks=tuple(mark for mark in marks if mark is not None),
        warnings=tuple(warnings),
    )


def _different_sessions(root: ET.Element, warnings: list[str]) -> Iterator[ET.Element]:
    """The reading sessions; one that repeats another, reader and all marks, is a copy and not a fifth reader."""
    seen = set()
    for session in root.findall("readingSession"):
        is_marked = any(True for tag in ("unblindedReadNodule", "nonNodule") for _ in session.iter(tag))
        text = ET.tostring(session).strip()
        if is_marked and _text(session, "servicingRadiologistID") and text in seen:
            warnings.append("a reading session stands in the file twice; the copy is left out")
            continue
        seen.add(text)
        yield session


def _read_ratings(nodule: ET.Element) -> dict[str, int | None]:
    texts = {name: _text(nodule, f"characteristics/{XML_NAMES.get(name, name)}") for name in CHARACTERISTICS}
    return {name: rating_on_scale(name, int(text) if text else None) for name, text in texts.items()}


def _is_small(outlines: list[Outline], ratings: dict[str, int | None]) -> bool:
    """Readers outlined and rated what has 3 mm or more; they set a single point on what is smaller."""
    return all(len(outline.points) == 1 for outline in outlines) or not any(ratings.values())


def _small_nodule(reader: int, name: str, outlines: list[Outline]) -> Mark:
    """The point, or the middle of the points on the middle slice."""
    middle = sorted(outlines, key=lambda outline: outline.z_mm)[len(outlines) // 2]
    column, row = middle.points.mean(axis=0)
    return Mark("small_nodule", reader, name, float(row), float(column), middle.z_mm, middle.slice_uid)


def _read_non_nodule(reader: int, element: ET.Element) -> Mark | None:
    points = _read_points(element, "locus")
    if not len(points):
        return None
    column, row = points.mean(axis=0)
    place = (_read_z(element), _text(element, "imageSOP_UID"))
    return Mark("non_nodule", reader, _text(element, "nonNoduleID"), float(row), float(column), *place)


def _read_outline(roi: ET.Element) -> Outline:
    return Outline(
        points=_read_points(roi, "edgeMap"),
        z_mm=_read_z(roi),
        slice_uid=_text(roi, "imageSOP_UID"),
        is_inclusion=_text(roi, "inclusion").upper() != "FALSE",
    )


def _read_points(element: ET.Element, tag: str) -> np.ndarray:
    """(N, 2) int. x is the column and y the row: read the other way round, outlines fall on lung."""
    points = [(int(point.findtext("xCoord")), int(point.findtext("yCoord"))) for point in element.iter(tag)]
    if any(not 0 <= number <= LARGEST_COORDINATE for point in points for number in point):
        raise OutsideImageError(f"an outline should lie within 0 to {LARGEST_COORDINATE} pixels; found {max(points)}")
    return np.array(points, dtype=np.int32).reshape(-1, 2)


def _read_z(element: ET.Element) -> float:
    """Position of the slice; NaN, which no slice has, if the file does not say: then its UID must find it."""
    return float(_text(element, "imageZposition") or "nan")


def _text(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
