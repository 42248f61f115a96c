"""LIDC-IDRI: what four radiologists outlined and rated, from the XML of TCIA or from the DICOM objects of IDC.

Armato et al., Medical Physics 38(2), 2011. Up to four readers marked each scan without having to agree. A nodule of
3 mm or more has outlines and nine ratings: a row of the nodule table once the readers are brought together. A smaller
one has a single point, and so has a non-nodule: each is a row of the table of marks.
"""

from collections.abc import Iterable, Iterator, Sequence

from ..readers.files import RawFile
from ..volume import Rejection
from .lidc_dicom import read_dicom_annotations
from .lidc_nodules import Annotation
from .lidc_xml import read_xml


def read_annotations(files: Iterable[RawFile]) -> Iterator[Annotation | Rejection]:
    """Read every annotation among some files: XML first, then DICOM.

    Args:
        files: the files of the collection that are no part of a scan.

    Yields:
        An Annotation per readable XML file, and per scan with segmentations of LIDC; a Rejection for an XML file that
        is none, and for a damaged segmentation or report. Files of other kinds are passed over.
    """
    others = []
    for file in files:
        if file.name.lower().endswith(".xml"):
            yield read_xml(file)
        else:
            others.append(file)
    yield from read_dicom_annotations(others)


def collection_of(patient_ids: Sequence[str]) -> dict[str, str | bool]:
    """Name, licence and citation for the dataset card, told from the patients' pseudonyms.

    Only scans that really are LIDC-IDRI carry its licence: the same command also reads phantoms and a hospital's own
    scans with LIDC-style XML.

    Args:
        patient_ids: all patients of the set.

    Returns:
        `name`, `license` (a Hub licence identifier), `origin` and `citation`, as the card template names them, and
        `is_public`: whether patient ids and UIDs are the public pseudonyms of a published collection.
    """
    if all(patient_id.startswith("LIDC-IDRI-") for patient_id in patient_ids):
        return {
            "name": "LIDC-IDRI",
            "license": "cc-by-3.0",
            "origin": "Chest CT of the Lung Image Database Consortium, from The Cancer Imaging Archive (CC BY 3.0).",
            "citation": "Armato SG III et al. The Lung Image Database Consortium (LIDC) and Image Database Resource "
            "Initiative (IDRI). Medical Physics 38(2):915-931, 2011. Data: doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
            "is_public": True,
        }
    if all(patient_id.startswith("PHANTOM-") for patient_id in patient_ids):
        return {
            "name": "Phantom chest CT",
            "license": "cc0-1.0",
            "origin": "Synthetic scans and readers, made by `dataset_scripts/make_phantom.py`. No patient is in it.",
            "citation": "None needed.",
            "is_public": True,
        }
    return {
        "name": "Chest CT",
        "license": "other",
        "origin": "Scans of the person who built this set. Their licence is not known here: state it before sharing.",
        "citation": "To be stated by whoever shares the set.",
        "is_public": False,
    }
