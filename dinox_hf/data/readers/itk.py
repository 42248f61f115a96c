"""NIfTI, NRRD and MetaImage volumes through SimpleITK."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from ..volume import Rejection, Volume, find_padding_hu
from .files import RawFile

ITK_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
# Pixels of a header beside them; read with it, not alone.
DETACHED_SUFFIXES = (".raw", ".zraw")


def read_itk_volume(file: RawFile, modality: Literal["ct", "mr"] = "ct") -> Volume | Rejection:
    """Read one volume file, turned to the axes of `Volume` by the orientation in its header.

    These formats name neither patient nor series: the file name stands for the patient, and path and size for the
    series. Fractions are rounded and values outside int16 clipped, as for DICOM.

    Args:
        file: a NIfTI, NRRD or MetaImage file on disk.
        modality: what the numbers mean; the formats do not say.

    Returns:
        The volume, or a Rejection with reason and advice.
    """
    if file.member is not None:
        return Rejection(file.name, "a volume inside a zip archive", "Unpack the archive first.", loses_scan=True)
    try:
        image = sitk.ReadImage(str(file.root / file.path))
    # SimpleITK raises RuntimeError with many lines of its own source positions for whatever is wrong.
    except RuntimeError:
        return Rejection(file.name, "SimpleITK cannot read it", "Check or download the file again.", loses_scan=True)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or image.GetSize()[2] < 2:
        return Rejection(
            file.name,
            f"should be one 3-D volume of numbers; found size {image.GetSize()} with "
            f"{image.GetNumberOfComponentsPerPixel()} numbers per voxel",
            "Split time points and channels into files of their own.",
        )
    image = sitk.DICOMOrient(image, "LPS")
    info = np.iinfo(np.int16)
    voxels = np.clip(np.rint(sitk.GetArrayFromImage(image)), info.min, info.max).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    return Volume(
        voxels=voxels,
        z_mm=normal @ affine[:3, 3] + image.GetSpacing()[2] * np.arange(len(voxels)),
        affine_lps=affine,
        slice_uids=(),
        series_id=f"{_stem(file)}-{hashlib.sha256(file.name.encode()).hexdigest()[:8]}",
        patient_id=_stem(file),
        modality=modality,
        padding_hu=find_padding_hu(voxels) if modality == "ct" else None,
    )


def _stem(file: RawFile) -> str:
    return Path(file.path).name.split(".")[0]
