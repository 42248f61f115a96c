"""NIfTI, NRRD and MetaImage volumes through SimpleITK, also inside zip archives."""

import gzip
import hashlib
import math
import os
import re
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

import numpy as np
import SimpleITK as sitk

from ..volume import DARKEST_TISSUE_HU, Rejection, Volume, find_padding_hu
from .dicom_pixels import to_hu
from .files import RawFile
from .volume_layout import HEAD_BYTES, BadLayout, Layout, check_axes, check_nifti_numbers, read_layout

ITK_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
# Numbers of a header beside them; read with it, not alone.
DETACHED_SUFFIXES = (".raw", ".zraw", ".raw.gz")
SCALARS = {
    *(sitk.sitkInt16, sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkInt64, sitk.sitkUInt64),
    *(sitk.sitkFloat32, sitk.sitkFloat64),
}
MOST_SHRUNK = 1100  # deflate cannot shrink further
UID = re.compile(r"\d+(\.\d+){5,}")
# Its warnings go to the terminal past Python; what matters of them is checked here.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


@dataclass(frozen=True)
class VolumeFile:
    """One volume file whose header has been read."""

    file: RawFile
    size: tuple[int, ...]  # (x, y, z) voxels as stored
    is_turned: bool  # stored axes do not run to the left, to posterior and to the head
    num_data_bytes: int | None = (
        None  # of the file that holds the numbers (of the .nii inside a .nii.gz); None: unknown
    )
    data_file: RawFile | None = None  # that file, where it lies beside the header
    modality: Literal["ct", "mr"] = "ct"  # what the numbers mean; the formats do not say

    @property
    def patient_id(self) -> str:
        """These formats name no patient, so every file stands for one of its own, as `folder/name`.

        A file named by a SeriesInstanceUID (LUNA16) goes by that alone.
        """
        stem = _stem(self.file)
        return stem if UID.fullmatch(stem) else str(PurePosixPath(self.file.name).parent / stem)

    @property
    def series_id(self) -> str:
        """The UID that is the file's name, so that annotations of that series find it, or the name and a hash."""
        stem = _stem(self.file)
        name = self.file.name.encode(errors="surrogateescape")
        return stem if UID.fullmatch(stem) else f"{stem}-{hashlib.sha256(name).hexdigest()[:8]}"

    @property
    def files(self) -> tuple[RawFile, ...]:
        """The file, and the one with its numbers."""
        return (self.file,) if self.data_file is None else (self.file, self.data_file)

    @property
    def slice_uids(self) -> tuple[str, ...]:
        """None in these formats."""
        return ()

    @property
    def num_slices(self) -> int:
        """Slices as stored."""
        return self.size[2]

    @property
    def num_bytes(self) -> int:
        """Size of the voxels as int16."""
        return 2 * math.prod(self.size)

    def load(self) -> Volume | Rejection:
        """Read the voxels, turned to the axes of `Volume`; see `to_hu` for fractions and numbers beyond int16."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = _on_disk(self, folder)
                if path.lower().endswith(".nii"):
                    check_nifti_numbers(path)
                image = sitk.DICOMOrient(sitk.ReadImage(path), "LPS")
        except BadLayout as error:
            return _refuse(self.file, str(error))
        # SimpleITK raises RuntimeError with many lines of its own source positions; archives fail in many ways.
        except (RuntimeError, OSError, EOFError, ValueError, NotImplementedError, zlib.error) as error:
            return _refuse(self.file, f"it cannot be read ({type(error).__name__})")
        stored = sitk.GetArrayViewFromImage(image)
        voxels = np.empty(stored.shape, np.int16)
        for index, slice_ in enumerate(stored):
            to_hu(slice_, 1, 0, voxels[index])
        if self.modality == "ct" and voxels.min() >= DARKEST_TISSUE_HU:
            return Rejection(
                self.file.name,
                f"should hold HU, with air far below 0; found nothing below {DARKEST_TISSUE_HU}: a label map, MR, or "
                f"an offset",
                "Nothing to do, if it is no CT; else subtract the offset.",
            )
        affine = np.eye(4)
        affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
        return Volume(
            voxels=voxels,
            z_mm=normal @ affine[:3, 3] + image.GetSpacing()[2] * np.arange(len(voxels)),
            affine_lps=affine,
            slice_uids=(),
            series_id=self.series_id,
            patient_id=self.patient_id,
            modality=self.modality,
            padding_hu=find_padding_hu(voxels) if self.modality == "ct" else None,
        )


def read_volume_header(file: RawFile) -> VolumeFile | Rejection:
    """Read the header of a NIfTI, NRRD or MetaImage file, or say why it is no volume."""
    try:
        head = _first_bytes(file)
        layout = read_layout(head, file.name)
        data_file = layout.data_name and _neighbour(file, layout.data_name)
        _check_size(file, data_file, layout)
        return _describe(file, head, data_file, layout)
    except BadLayout as error:
        return _refuse(file, str(error))
    # As in load().
    except Exception as error:
        return _refuse(file, f"it cannot be read ({type(error).__name__})")


def _describe(file: RawFile, head: bytes, data_file: RawFile | None, layout: Layout) -> VolumeFile | Rejection:
    reader = sitk.ImageFileReader()
    with tempfile.TemporaryDirectory() as folder:
        # Its beginning is enough, so nothing has to be unpacked.
        name = os.path.join(folder, PurePosixPath(file.name).name.lower().removesuffix(".gz"))
        Path(name).write_bytes(head)
        if data_file is not None:
            # A NRRD wants the file of its numbers to be there, if only to open it.
            Path(folder, PurePosixPath(data_file.name).name).touch()
        reader.SetFileName(name)
        reader.ReadImageInformation()
    size, channels = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) != 3 or channels != 1 or size[2] < 2:
        return Rejection(
            file.name,
            f"should be one 3-D volume of numbers; found size {size} with {channels} numbers per voxel",
            "Split time points and channels into files of their own.",
        )
    if reader.GetPixelIDValue() not in SCALARS:
        return Rejection(
            file.name,
            "should hold HU in 16 bits or more; found smaller or complex numbers: a label map or a picture",
            "Nothing to do, if it is no CT.",
        )
    check_axes(np.array(reader.GetDirection()).reshape(3, 3))
    if not all(1e-3 < spacing_mm < 100 for spacing_mm in reader.GetSpacing()):
        raise BadLayout("its voxels should lie 0.001 to 100 mm apart; found another spacing, or another unit than mm")
    if math.prod(size) > MOST_SHRUNK * (data_file or file).size():
        raise BadLayout("its header promises more voxels than the file can hold")
    is_turned = bool(np.abs(np.array(reader.GetDirection()) - np.eye(3).ravel()).max() > 0.3)
    return VolumeFile(file, size, is_turned, layout.num_bytes, data_file or None)


def _first_bytes(file: RawFile) -> bytes:
    with file.open() as stream:
        if file.name.lower().endswith(".gz"):
            with gzip.open(stream) as unpacked:
                return unpacked.read(HEAD_BYTES)
        return stream.read(HEAD_BYTES)


def _check_size(file: RawFile, data_file: RawFile | None, layout: Layout) -> None:
    """Compare sizes where no compression hides them; that of a .nii.gz shows when it is unpacked."""
    if layout.num_bytes is None or file.name.lower().endswith(".gz"):
        return
    found = (data_file or file).size()
    if found != layout.num_bytes:
        raise BadLayout(f"its file of numbers should have {layout.num_bytes:,} bytes; found {found:,}")


def _neighbour(file: RawFile, name: str) -> RawFile:
    """The file of this name in the same folder or archive; paths that lead elsewhere count by their last part."""
    base = PurePosixPath(name.replace("\\", "/")).name
    if file.member is None:
        found = RawFile(file.root, str(PurePosixPath(file.path).parent / base))
        is_there = (found.root / found.path).is_file()
    else:
        found = RawFile(file.root, file.path, str(PurePosixPath(file.member).parent / base), file.outer)
        is_there = found.member in file.open_archive().namelist()
    if not is_there:
        raise BadLayout("the file with its numbers, which its header names, is not beside it")
    return found


def _on_disk(scan: VolumeFile, folder: str) -> str:
    """A path that SimpleITK can read: the file itself or, out of an archive or a .nii.gz, a copy."""
    if scan.file.name.lower().endswith(".nii.gz"):
        # SimpleITK takes a cut .nii.gz for zeros; this sees the end and the checksum.
        with scan.file.open() as packed, gzip.open(packed) as stream:
            return _write(stream, os.path.join(folder, "volume.nii"), scan.num_data_bytes)
    if scan.file.member is None:
        return _path(scan.file)
    if scan.data_file is not None:
        _copy(scan.data_file, folder)
    return _copy(scan.file, folder)


def _write(stream: BinaryIO, path: str, num_bytes: int) -> str:
    with open(path, "wb") as copy:
        left = num_bytes
        while left and (data := stream.read(min(left, 1 << 20))):
            left -= copy.write(data)
    # One byte more than promised, or the end, where the checksum is.
    if left or stream.read(1):
        raise BadLayout(f"its numbers should take {num_bytes:,} bytes; found {'fewer' if left else 'more'}")
    return path


def _copy(file: RawFile, folder: str) -> str:
    path = os.path.join(folder, PurePosixPath(file.name).name)
    with file.open() as stream, open(path, "wb") as copy:
        shutil.copyfileobj(stream, copy)
    return path


def _path(file: RawFile) -> str:
    return str(file.root / file.path)


def _stem(file: RawFile) -> str:
    name = Path(file.name).name
    return next(name[: -len(suffix)] for suffix in sorted(ITK_SUFFIXES, key=len, reverse=True) if _ends(name, suffix))


def _ends(name: str, suffix: str) -> bool:
    return name.lower().endswith(suffix)


def _refuse(file: RawFile, reason: str) -> Rejection:
    return Rejection(file.name, reason, "Check it, or get the file again.", loses="scan")
