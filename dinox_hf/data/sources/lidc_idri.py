"""LIDC-IDRI: four radiologists' outlines and ratings from the XML that TCIA ships, as nodules on the slices of a scan.

Armato et al., Medical Physics 38(2), 2011. Up to four readers marked each scan without having to agree. A nodule of
3 mm or more has outlines and nine ratings; a smaller one has a single point, and so has a non-nodule. Only the first
kind becomes a row of the nodule table; the other two are counted.
"""

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..readers.files import RawFile, list_files
from ..schema import CHARACTERISTICS
from ..volume import Rejection, Volume
from .lidc_nodules import group_readers, nodule_row, reader_mask

# The XML writes a characteristic as we do, except for this one.
XML_NAMES = {"internal_structure": "internalStructure"}


DAMAGED = "damaged LIDC XML"
LARGEST_COORDINATE = 4096  # px; no scanner has larger slices, and a mask of more would fill the memory


@dataclass(frozen=True, eq=False)
class Outline:
    """One closed outline on one slice."""

    points: np.ndarray  # (N, 2) int, (column, row) of the stored frame: the first pixels outside the nodule
    z_mm: float
    slice_uid: str
    is_inclusion: bool  # False: what it encloses is no part of the nodule


@dataclass(frozen=True, eq=False)
class ReaderNodule:
    """One reader's nodule of 3 mm or more."""

    reader: int  # 0..3, the order of the reading sessions in the file
    name: str  # the reader's own; two readers' names for one nodule differ
    ratings: dict[str, int]
    outlines: tuple[Outline, ...]


@dataclass(frozen=True, eq=False)
class Annotation:
    """What one XML file says about one scan."""

    path: str  # relative to the input folder
    stamp: str  # changes when the file does
    series_id: str
    nodules: tuple[ReaderNodule, ...]
    num_small_nodules: int  # below 3 mm: a point, no ratings
    num_non_nodules: int

    @property
    def slice_uids(self) -> set[str]:
        """SOPInstanceUIDs of all outlined slices."""
        return {outline.slice_uid for nodule in self.nodules for outline in nodule.outlines if outline.slice_uid}

    def nodule_rows(self, volume: Volume) -> tuple[list[dict], list[str]]:
        """Rows of the nodule table for this scan.

        Args:
            volume: the annotated scan, not turned against its stored frames.

        Returns:
            The rows, numbered from feet to head, and warnings about outlines that found no slice.
        """
        masks, warnings = [], []
        for nodule in self.nodules:
            mask, num_absent = reader_mask(volume, nodule.outlines)
            masks.append(mask)
            if num_absent:
                warnings.append(
                    f"{self.path}: {num_absent} of {len(nodule.outlines)} outlines of reader {nodule.reader + 1}'s "
                    f"{nodule.name!r} lie on slices that are absent from the scan"
                )
        rows = []
        for members in group_readers([nodule.reader for nodule in self.nodules], masks):
            row = nodule_row(volume, [masks[index] for index in members])
            ratings = [self.nodules[index].ratings for index in members]
            rows.append(row | {name: [rating[name] for rating in ratings] for name in CHARACTERISTICS})
        rows.sort(key=lambda row: row["centre_index"])
        return [{"nodule_id": f"{volume.series_id}/{number}"} | row for number, row in enumerate(rows, 1)], warnings


def read_annotations(folder: str | Path) -> Iterator[Annotation | Rejection]:
    """Read every LIDC XML file below a folder, also inside zip archives.

    Args:
        folder: the raw collection.

    Yields:
        An Annotation per readable file; a Rejection for an XML file that is none.
    """
    for file in list_files(Path(folder)):
        if isinstance(file, RawFile) and file.name.lower().endswith(".xml"):
            yield read_annotation(file)


def read_annotation(file: RawFile) -> Annotation | Rejection:
    """Read one XML file of LIDC (`LidcReadMessage`)."""
    try:
        root = _without_namespaces(ET.fromstring(file.read_bytes()))
        if root.tag != "LidcReadMessage":
            return Rejection(file.name, f"XML of kind {root.tag}, not LidcReadMessage", "Nothing to do.")
        sessions = root.findall("readingSession")
        return Annotation(
            path=file.name,
            stamp=file.stamp(),
            series_id=root.findtext("ResponseHeader/SeriesInstanceUid", "").strip(),
            nodules=tuple(_read_nodules(sessions)),
            num_small_nodules=sum(not _is_outlined(nodule) for nodule in root.iter("unblindedReadNodule")),
            num_non_nodules=sum(1 for _ in root.iter("nonNodule")),
        )
    # Damaged bytes make a parser fail in any way at all; every one of them means the same to the user.
    except Exception as error:
        return Rejection(file.name, f"{DAMAGED} ({error})", "Download the annotation file again.")


def _without_namespaces(root: ET.Element) -> ET.Element:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _is_outlined(nodule: ET.Element) -> bool:
    """At least 3 mm: readers rated these and drew outlines; smaller ones have one point."""
    return nodule.find("characteristics/malignancy") is not None and any(
        len(roi.findall("edgeMap")) > 1 for roi in nodule.iter("roi")
    )


def _read_nodules(sessions: list[ET.Element]) -> Iterator[ReaderNodule]:
    for reader, session in enumerate(sessions):
        for nodule in filter(_is_outlined, session.iter("unblindedReadNodule")):
            yield ReaderNodule(
                reader=reader,
                name=nodule.findtext("noduleID", "").strip(),
                ratings={
                    name: int(nodule.findtext(f"characteristics/{XML_NAMES.get(name, name)}"))
                    for name in CHARACTERISTICS
                },
                outlines=tuple(_read_outline(roi) for roi in nodule.iter("roi")),
            )


def _read_outline(roi: ET.Element) -> Outline:
    # x is the column and y the row: read the other way round, outlines fall on lung.
    points = [(int(edge.findtext("xCoord")), int(edge.findtext("yCoord"))) for edge in roi.iter("edgeMap")]
    if any(not 0 <= number <= LARGEST_COORDINATE for point in points for number in point):
        raise ValueError(f"an outline should lie within 0 to {LARGEST_COORDINATE} pixels; found {max(points)}")
    return Outline(
        points=np.array(points, dtype=np.int32).reshape(-1, 2),
        z_mm=float(roi.findtext("imageZposition")),
        slice_uid=roi.findtext("imageSOP_UID", "").strip(),
        is_inclusion=roi.findtext("inclusion", "TRUE").strip().upper() == "TRUE",
    )


def collection_of(patient_ids: Sequence[str]) -> dict[str, str]:
    """Name, licence and citation for the dataset card, told from the patients' pseudonyms.

    Only scans that really are LIDC-IDRI carry its licence: the same command also reads phantoms and a hospital's own
    scans with LIDC-style XML.

    Args:
        patient_ids: all patients of the set.

    Returns:
        `name`, `license` (a Hub licence identifier), `origin` and `citation`, as the card template names them.
    """
    if all(patient_id.startswith("LIDC-IDRI-") for patient_id in patient_ids):
        return {
            "name": "LIDC-IDRI",
            "license": "cc-by-3.0",
            "origin": "Chest CT of the Lung Image Database Consortium, from The Cancer Imaging Archive (CC BY 3.0).",
            "citation": "Armato SG III et al. The Lung Image Database Consortium (LIDC) and Image Database Resource "
            "Initiative (IDRI). Medical Physics 38(2):915-931, 2011. Data: doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
        }
    if all(patient_id.startswith("PHANTOM-") for patient_id in patient_ids):
        return {
            "name": "Phantom chest CT",
            "license": "cc0-1.0",
            "origin": "Synthetic scans and readers, made by `dataset_scripts/make_phantom.py`. No patient is in it.",
            "citation": "None needed.",
        }
    return {
        "name": "Chest CT",
        "license": "other",
        "origin": "Scans of the person who built this set. Their licence is not known here: state it before sharing.",
        "citation": "To be stated by whoever shares the set.",
    }
