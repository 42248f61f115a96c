"""The slices of `scans` in other clothes: every transfer syntax that can be made here, enhanced multi-frame, zip."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence

from tests.data.scans import SPACING_MM, slice_dataset, sphere_hu

SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG": uid.JPEGLosslessSV1,
    "JPEG 2000": uid.JPEG2000Lossless,
}


def encode(dataset: Dataset, name: str) -> bytes:
    """A plain little-endian dataset as a file in another transfer syntax."""
    syntax = SYNTAXES[name]
    dataset = pydicom.dcmread(io.BytesIO(to_bytes(dataset)))
    dtype = np.dtype(f"<{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}")
    frames = np.frombuffer(dataset.PixelData, dtype).reshape(-1, dataset.Rows, dataset.Columns)
    if name == "big endian":
        dataset.PixelData = frames.astype(dtype.newbyteorder(">")).tobytes()
    if name == "RLE":
        dataset.compress(uid.RLELossless)
    if name.startswith("JPEG"):
        dataset.PixelData = encapsulate([_jpeg(frame, name.replace(" ", "")) for frame in frames])
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    raw = pydicom.Dataset(dataset)
    raw.file_meta = dataset.file_meta
    form = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian}
    pydicom.dcmwrite(file, raw, enforce_file_format=True, **form)
    return file.getvalue()


def _jpeg(frame: np.ndarray, compressor: str) -> bytes:
    """The bare stream that SimpleITK writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "frame.dcm")
        writer = sitk.ImageFileWriter()
        writer.SetFileName(path)
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.Execute(sitk.GetImageFromArray(frame[None]))
        return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def to_bytes(dataset: Dataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def enhanced_dataset(voxels: np.ndarray | None = None, slopes=None, shared_rescale: bool = False, **tags) -> Dataset:
    """All slices as one Enhanced CT file, stored head first; `slopes` differ from frame to frame."""
    voxels = sphere_hu() if voxels is None else voxels
    slopes = slopes or [1] * len(voxels)
    moved = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
    dataset = slice_dataset(voxels[0], 0, 0, **dict.fromkeys(moved))
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = uid.EnhancedCTImageStorage
    dataset.NumberOfFrames = len(voxels)
    dataset.PixelData = b"".join(pixels.tobytes() for pixels in voxels[::-1])
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    shared.PixelMeasuresSequence = _item(PixelSpacing=[SPACING_MM[1], SPACING_MM[2]], SliceThickness=SPACING_MM[0])
    if shared_rescale:
        shared.PixelValueTransformationSequence = _item(RescaleSlope=1, RescaleIntercept=0)
    groups = []
    for index, slope in reversed(list(enumerate(slopes))):
        group = Dataset()
        group.PlanePositionSequence = _item(ImagePositionPatient=[-7.0, -9.0, -30 + SPACING_MM[0] * index])
        if not shared_rescale:
            group.PixelValueTransformationSequence = _item(RescaleSlope=slope, RescaleIntercept=0)
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    for name, value in tags.items():
        setattr(dataset, name, value)
    return dataset


def _item(**values) -> Sequence:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return file.getvalue()
