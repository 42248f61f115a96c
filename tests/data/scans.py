"""Small CT series made in code, written as real DICOM files, with LIDC-style XML: a sphere of -600 HU in water."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SPHERE_HU = -600
SPACING_MM = (2.5, 0.8, 0.7)  # z, y, x


def sphere_hu(num_slices: int = 6, rows: int = 24, columns: int = 20) -> np.ndarray:
    """(Z, rows, columns) int16: water with a sphere of 5 mm radius, off centre, and a marker at low row and column."""
    z, y, x = np.indices((num_slices, rows, columns))
    distance = np.sqrt(((z - 2) * 2.5) ** 2 + ((y - 14) * 0.8) ** 2 + ((x - 6) * 0.7) ** 2)
    voxels = np.where(distance <= 5, SPHERE_HU, 40).astype(np.int16)
    voxels[:, 1, 2] = 900
    return voxels + np.arange(num_slices, dtype=np.int16)[:, None, None]


def slice_dataset(pixels: np.ndarray, z_mm: float, number: int, **tags) -> FileDataset:
    """One CT slice; `tags` replace or (None) remove attributes."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    series = tags.get("SeriesInstanceUID", "1.2.3")
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"{series}.{number}",
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": series,
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": number,
        "ImagePositionPatient": [-7.0, -9.0, z_mm],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [SPACING_MM[1], SPACING_MM[2]],
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    for name, value in (values | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelPaddingValue" in tags:
        dataset["PixelPaddingValue"].VR = "SS" if pixels.dtype.kind == "i" else "US"
    dataset.PixelData = pixels.tobytes()
    return dataset


def write_series(folder: Path, voxels: np.ndarray | None = None, first_z_mm: float = -30.0, **tags) -> list[Path]:
    """Write a series whose file names run against its z order; return the files from feet to head."""
    voxels = sphere_hu() if voxels is None else voxels
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, pixels in enumerate(voxels):
        files.append(folder / f"{len(voxels) - index:03d}.dcm")
        dataset = slice_dataset(pixels, first_z_mm + SPACING_MM[0] * index, index, **tags)
        dataset.save_as(files[-1], enforce_file_format=True)
    return files


def square(first: int, last: int) -> list[tuple[int, int]]:
    """Closed outline (column, row) of the square with these first and last border pixels."""
    edge = range(first, last)
    return (
        [(x, first) for x in edge]
        + [(last, y) for y in edge]
        + [(x, last) for x in reversed(range(first + 1, last + 1))]
        + [(first, y) for y in reversed(range(first + 1, last + 1))]
    )


def nodule_xml(rois: list[tuple], malignancy: int = 4, name: str = "N1") -> str:
    """One reader's nodule; a roi is (z_mm, slice_uid, points[, inclusion])."""
    text = f"<unblindedReadNodule><noduleID>{name}</noduleID><characteristics>"
    for element in ("subtlety", "internalStructure", "calcification", "sphericity", "margin", "lobulation"):
        text += f"<{element}>3</{element}>"
    text += f"<spiculation>2</spiculation><texture>5</texture><malignancy>{malignancy}</malignancy></characteristics>"
    return text + "".join(_roi_xml(*roi) for roi in rois) + "</unblindedReadNodule>"


def _roi_xml(z_mm: float, slice_uid: str, points: list[tuple[int, int]], inclusion: bool = True) -> str:
    edges = "".join(f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in points)
    return (
        f"<roi><imageZposition>{z_mm}</imageZposition><imageSOP_UID>{slice_uid}</imageSOP_UID>"
        f"<inclusion>{str(inclusion).upper()}</inclusion>{edges}</roi>"
    )


def write_xml(path: Path, sessions: list[str], series_id: str = "1.2.3") -> None:
    """An LIDC read message with one reading session per entry."""
    body = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
        f"<SeriesInstanceUid>{series_id}</SeriesInstanceUid></ResponseHeader>{body}</LidcReadMessage>"
    )
