"""Four simulated readers: whom they overlook, how they outline and rate a nodule, and the LIDC XML they leave.

The XML has the elements and the namespace of LIDC-IDRI: a contour runs through the first pixels *outside* the nodule
(x is the column, y the row), closed; a nodule below 3 mm is one point without characteristics.
"""

import xml.etree.ElementTree as ET
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation, binary_fill_holes, gaussian_filter, label

from .phantom_nodules import Nodule, NoduleImage

NAMESPACE = "http://www.nih.gov"
# The eight neighbours as (row, column), clockwise from the left.
CLOCKWISE = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))


@dataclass(frozen=True)
class Reader:
    """The habits of one radiologist."""

    reader_id: str
    sensitivity: float  # for a nodule of 7 to 20 mm
    offset_mm: float  # > 0: outlines generously
    rating_noise: float


READERS = (
    Reader("900000001", sensitivity=0.96, offset_mm=0.0, rating_noise=0.45),
    Reader("900000002", sensitivity=0.92, offset_mm=0.2, rating_noise=0.55),
    Reader("900000003", sensitivity=0.94, offset_mm=-0.15, rating_noise=0.5),
    Reader("900000004", sensitivity=0.88, offset_mm=0.1, rating_noise=0.65),
)


@dataclass(frozen=True)
class Mark:
    """What one reader drew at one place; points are (x, y) = (column, row)."""

    contours: dict[int, np.ndarray]  # slice index -> (N, 2) points
    characteristics: dict[str, int] | None  # None: below 3 mm, or no nodule
    is_nodule: bool


def read_images(
    rng: np.random.Generator,
    images: list[NoduleImage],
    small_points: np.ndarray,
    lookalike_points: np.ndarray,
) -> list[list[Mark]]:
    """The marks of each reader.

    Args:
        rng: draws misses, hesitations and ratings.
        images: nodules of 3 mm and more on the grid of the scan.
        small_points: (N, 3) z, y, x index of the nodules below 3 mm.
        lookalike_points: (N, 3) z, y, x index of places that may be marked as no nodule.
    """
    truths = [true_ratings(rng, image.nodule) for image in images]
    readings = []
    for reader in READERS:
        marks = []
        for image, truth in zip(images, truths, strict=True):
            contours = outline(rng, reader, image)
            if contours and rng.random() < reader.sensitivity:
                marks.append(Mark(contours, rate(rng, reader, truth), is_nodule=True))
        marks += [point_mark(point, is_nodule=True) for point in small_points if rng.random() < 0.6]
        marks += [point_mark(point, is_nodule=False) for point in lookalike_points if rng.random() < 0.4]
        readings.append(marks)
    return readings


def true_ratings(rng: np.random.Generator, nodule: Nodule) -> dict[str, float]:
    """What a mean reader would say; the case itself may look more or less malignant than it is."""
    return {
        "subtlety": float(np.interp(nodule.diameter_mm, [7, 14], [3.4, 5.0])),
        "internalStructure": 1.0,
        "calcification": float(nodule.calcification),
        "sphericity": (2.8 if nodule.is_elongated else 4.7) - 0.3 * nodule.is_lobulated,
        "margin": 2.1 if nodule.is_spiculated else 4.6,
        "lobulation": 3.7 if nodule.is_lobulated else 1.4,
        "spiculation": 3.9 if nodule.is_spiculated else 1.3,
        "texture": 2.9 if nodule.is_part_solid else 4.8,
        "malignancy": (4.1 if nodule.is_malignant else 1.9) + float(rng.normal(0, 0.35)),
    }


def rate(rng: np.random.Generator, reader: Reader, truth: dict[str, float]) -> dict[str, int]:
    """Whole numbers from 1 to 5; calcification is a code, not a scale, and is sometimes overlooked."""
    ratings = {
        name: int(np.clip(np.rint(value + rng.normal(0, reader.rating_noise)), 1, 5)) for name, value in truth.items()
    }
    ratings["internalStructure"] = 1
    ratings["calcification"] = int(truth["calcification"]) if rng.random() < 0.93 else 6
    return ratings


def outline(rng: np.random.Generator, reader: Reader, image: NoduleImage) -> dict[int, np.ndarray]:
    """Closed contours by slice, each a hand's tremble off the true surface."""
    tremble = gaussian_filter(rng.standard_normal(image.distance_mm.shape), (0.7, 2, 2))
    mood_mm = reader.offset_mm + rng.normal(0, 0.2)
    masks = image.distance_mm + 0.3 * tremble / (tremble.std() + 1e-6) < mood_mm
    first_z, first_y, first_x = (part.start for part in image.box)
    contours = {}
    for z, mask in enumerate(masks):
        if mask.sum() >= 3:
            contours[first_z + z] = outside_contour(mask) + np.array([first_x, first_y])
    return contours


def outside_contour(mask: np.ndarray) -> np.ndarray:
    """(N, 2) x, y of the pixels just outside the largest part of a mask, in order, the first repeated at the end.

    Moore's boundary tracing around the mask dilated by one pixel.
    """
    parts, count = label(mask)
    largest = parts == 1 + np.argmax(np.bincount(parts.ravel(), minlength=count + 1)[1:])
    solid = np.pad(binary_dilation(np.pad(binary_fill_holes(largest), 1)), 1)
    start = tuple(int(i) for i in np.argwhere(solid)[0])
    # The first pixel in reading order was entered from its left, which is background.
    point, backtrack = start, 0
    trace = [start]
    for _ in range(4 * solid.size):
        for turn in range(1, 9):
            step = (backtrack + turn) % 8
            neighbour = (point[0] + CLOCKWISE[step][0], point[1] + CLOCKWISE[step][1])
            if solid[neighbour]:
                break
        # The next search starts from the background pixel seen last, as the new point sees it.
        last = CLOCKWISE[(step - 1) % 8]
        seen = (point[0] + last[0] - neighbour[0], point[1] + last[1] - neighbour[1])
        point, backtrack = neighbour, CLOCKWISE.index(seen)
        trace.append(point)
        if point == start:
            break
    return np.array(trace)[:, ::-1] - 2


def point_mark(point: np.ndarray, is_nodule: bool) -> Mark:
    """A mark that is a single pixel."""
    z, y, x = (int(value) for value in np.rint(point))
    return Mark({z: np.array([[x, y]])}, None, is_nodule)


def lidc_xml(
    readings: list[list[Mark]], study_uid: str, series_uid: str, slice_uids: tuple[str, ...], z_mm: np.ndarray
) -> bytes:
    """The readings as one LidcReadMessage."""
    root = ET.Element("LidcReadMessage", {"xmlns": NAMESPACE, "uid": f"{series_uid}.0"})
    header = ET.SubElement(root, "ResponseHeader")
    add_texts(header, Version="1.8.1", TaskDescription="Second unblinded read", SeriesInstanceUid=series_uid)
    add_texts(header, ResponseDescription="1 - Reading complete", StudyInstanceUID=study_uid)
    for reader, marks in zip(READERS, readings, strict=True):
        session = ET.SubElement(root, "readingSession")
        add_texts(session, annotationVersion="3.12", servicingRadiologistID=reader.reader_id)
        # LIDC lists what is no nodule last.
        for number, mark in enumerate(sorted(marks, key=lambda mark: not mark.is_nodule), start=1):
            if mark.is_nodule:
                add_nodule(session, f"Nodule {number:03d}", mark, slice_uids, z_mm)
            else:
                add_non_nodule(session, f"Non-nodule {number:03d}", mark, slice_uids, z_mm)
    ET.indent(root)
    return ('<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode")).encode()


def add_nodule(session: ET.Element, name: str, mark: Mark, slice_uids: tuple[str, ...], z_mm: np.ndarray) -> None:
    """An unblindedReadNodule with its rois."""
    nodule = ET.SubElement(session, "unblindedReadNodule")
    add_texts(nodule, noduleID=name)
    if mark.characteristics is not None:
        add_texts(ET.SubElement(nodule, "characteristics"), **mark.characteristics)
    for z, points in mark.contours.items():
        roi = ET.SubElement(nodule, "roi")
        add_texts(roi, imageZposition=f"{z_mm[z]:.6f}", imageSOP_UID=slice_uids[z], inclusion="TRUE")
        for x, y in points:
            add_texts(ET.SubElement(roi, "edgeMap"), xCoord=x, yCoord=y)


def add_non_nodule(session: ET.Element, name: str, mark: Mark, slice_uids: tuple[str, ...], z_mm: np.ndarray) -> None:
    """A nonNodule with its locus."""
    ((z, points),) = mark.contours.items()
    element = ET.SubElement(session, "nonNodule")
    add_texts(element, nonNoduleID=name, imageZposition=f"{z_mm[z]:.6f}", imageSOP_UID=slice_uids[z])
    add_texts(ET.SubElement(element, "locus"), xCoord=points[0, 0], yCoord=points[0, 1])


def add_texts(parent: ET.Element, **texts: object) -> None:
    """Child elements that hold a text each."""
    for name, text in texts.items():
        ET.SubElement(parent, name).text = str(text)
