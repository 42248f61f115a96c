"""A phantom patient as DICOM files: CT Image Storage in the folder layout of TCIA, in no helpful order."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from .phantom_scanner import Scan


def phantom_uid(*names: object) -> str:
    """A valid UID that depends on nothing but these names."""
    return generate_uid(entropy_srcs=["dinox phantom", *map(str, names)])


def series_uids(seed: int, patient_id: str, size: int, num_slices: int) -> tuple[str, str, tuple[str, ...]]:
    """Study, series and slice UIDs of a patient."""
    study, series = (phantom_uid(seed, patient_id, size, level) for level in ("study", "series"))
    return study, series, tuple(phantom_uid(seed, patient_id, size, "slice", z) for z in range(num_slices))


def write_series(
    folder: Path,
    rng: np.random.Generator,
    patient_id: str,
    scan: Scan,
    voxels_hu: np.ndarray,
    uids: tuple[str, str, tuple[str, ...]],
) -> None:
    """Write one file a slice; file names follow a shuffled order, instance numbers run from head to feet.

    Args:
        folder: exists.
        rng: shuffles the names.
        patient_id: pseudonym.
        scan: geometry, kernel and storage.
        voxels_hu: (Z, Y, X) int16.
        uids: study, series, slices.
    """
    dataset = common_tags(patient_id, scan, uids)
    names = rng.permutation(len(voxels_hu)) + 1
    for z, (slice_hu, name) in enumerate(zip(voxels_hu, names, strict=True)):
        add_slice_tags(dataset, scan, z, uids[2][z])
        add_pixels(dataset, scan, slice_hu)
        dataset.save_as(folder / f"1-{name:03d}.dcm", enforce_file_format=True)


def common_tags(patient_id: str, scan: Scan, uids: tuple[str, str, tuple[str, ...]]) -> Dataset:
    """What all slices of the series share."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Modality = CTImageStorage, "CT"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uids[:2]
    dataset.FrameOfReferenceUID = phantom_uid(uids[1], "frame")
    dataset.PatientID = dataset.PatientName = patient_id
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.PatientIdentityRemoved = "YES"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20000101", "000000", "1", ""
    dataset.ReferringPhysicianName = dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = "Synthetic chest CT"
    dataset.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    dataset.Manufacturer, dataset.ConvolutionKernel = scan.storage.vendor, scan.kernel.name
    dataset.BodyPartExamined, dataset.PatientPosition = "CHEST", "HFS"
    dataset.KVP, dataset.XRayTubeCurrent = "120", round(200 * scan.dose)
    return dataset


def add_slice_tags(dataset: Dataset, scan: Scan, z: int, slice_uid: str) -> None:
    """Identity and geometry of one slice, over those of the slice before."""
    spacing_z, spacing_y, spacing_x = scan.grid.spacing_mm
    _, origin_y, origin_x = scan.grid.origin_mm
    position = round(float(scan.grid.axis(0)[z]), 6)
    dataset.SOPInstanceUID = slice_uid
    dataset.InstanceNumber = scan.grid.shape[0] - z
    dataset.ImagePositionPatient = [origin_x, origin_y, position]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SliceLocation = position
    dataset.PixelSpacing = [spacing_y, spacing_x]
    dataset.SliceThickness = round(spacing_z, 6)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, slice_uid


def add_pixels(dataset: Dataset, scan: Scan, slice_hu: np.ndarray) -> None:
    """Stored values as the vendor keeps them: signed or unsigned, with its intercept and slope."""
    storage = scan.storage
    stored = (slice_hu.astype(np.int32) - storage.intercept) // storage.slope
    dataset.Rows, dataset.Columns = slice_hu.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(storage.is_signed)
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = storage.intercept, storage.slope, "HU"
    dataset.WindowCenter, dataset.WindowWidth = -600, 1500
    if storage.fill_hu is not None:
        dataset.PixelPaddingValue = (storage.fill_hu - storage.intercept) // storage.slope
    dataset.PixelData = stored.astype("<i2" if storage.is_signed else "<u2").tobytes()
