"""Slices per second from DICOM files to HU: our reader against SimpleITK's, in turns in one process, numbers compared.

    python benchmarks/ingest.py [FOLDER]

Both sides get a folder with one uncompressed series – FOLDER, or one of noise made here – find out what lies in it,
and give its voxels in HU. The bytes of the same files, merely read, stand beside them, and so does each transfer
syntax that can be written here. Seconds are those of this process on one core, so that a busy machine disturbs little;
files come from the cache of the operating system; only the ratios of one run mean much.
"""

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from usage import show_help

from dinox_hf.data.readers.dicom_elements import read_elements
from dinox_hf.data.readers.files import list_files
from dinox_hf.data.readers.scan import Scan
from dinox_hf.data.readers.series import index_series, read_entry
from dinox_hf.data.volume import Volume

ROUNDS = 9
NUM_SLICES, NUM_PRIVATE = 60, 60  # real headers hold some hundred elements, most of which nobody asks for
TARGET = 1.8
SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
}


def main() -> None:
    """Compare, then print one line for each figure."""
    show_help(__doc__)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else write_series(Path(made) / "series")
        compare_with_itk(folder)
        compare_syntaxes(Path(made))


def compare_with_itk(folder: Path) -> None:
    files = [file.root / file.path for file in find_series(folder).files]
    ours, theirs = read_ours(folder), read_itk(folder)
    if not np.array_equal(ours, theirs):
        raise RuntimeError(
            f"Both readers should give the same HU; found {(ours != theirs).mean():.2%} of the voxels to differ. "
            f"The ratio would mean nothing; run tests/data/readers."
        )
    rounds = [
        (
            timed(read_ours, folder),
            timed(read_itk, folder),
            timed(read_bytes, files),
            timed(walk_headers, files),
            timed(pydicom_headers, files),
        )
        for _ in range(ROUNDS)
    ]
    ours_s, itk_s, bytes_s, walk_s, pydicom_s = (statistics.median(side) for side in zip(*rounds, strict=True))
    count, megabytes = len(ours), sum(path.stat().st_size for path in files) / 1e6
    print(f"{count} slices of {ours.shape[1]} x {ours.shape[2]}, {megabytes:.0f} MB, one core, {ROUNDS} rounds")
    print(f"  ours {count / ours_s:.0f} slices/s, SimpleITK {count / itk_s:.0f} slices/s; HU equal everywhere")
    ratio = tell("  against SimpleITK", [itk / ours for ours, itk, *_ in rounds])
    print(f"  target {TARGET} x: {'met' if ratio >= TARGET else 'missed'}")
    tell("  our time, in readings of the bytes alone", [ours / plain for ours, _, plain, *_ in rounds])
    tell("  headers alone: walk against pydicom", [slow / walk for *_, walk, slow in rounds])
    print(f"  headers alone: walk {1e3 * walk_s / count:.2f} ms, pydicom {1e3 * pydicom_s / count:.2f} ms a file")
    print(f"  bytes alone: {count / bytes_s:.0f} slices/s")


def tell(what: str, ratios: list[float]) -> float:
    """Print median and quartiles of paired ratios."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{what}: {middle:.2f} x (quartiles {low:.2f} to {high:.2f})")
    return middle


def compare_syntaxes(folder: Path) -> None:
    """The same slices in other transfer syntaxes, in turns with the plain ones."""
    plain = write_series(folder / "plain", num_slices=12)
    expected = read_ours(plain)
    for name, syntax in SYNTAXES.items():
        other = write_series(folder / name, num_slices=12, syntax=syntax)
        if not np.array_equal(read_ours(other), expected):
            raise RuntimeError(f"{name} should give the HU of the plain series; found others. Run tests/data/readers.")
        ratios = [timed(read_ours, other) / timed(read_ours, plain) for _ in range(ROUNDS)]
        tell(f"  time of {name} against explicit little endian", ratios)


def find_series(folder: Path) -> Scan:
    scans, _ = index_series(map(read_entry, list_files(folder)))
    if len(scans) != 1:
        raise RuntimeError(f"FOLDER should hold one series; found {len(scans)} in {folder}. Name another one.")
    return scans[0]


def read_ours(folder: Path) -> np.ndarray:
    volume = find_series(folder).load()
    if not isinstance(volume, Volume):
        raise RuntimeError(f"The series should be readable; found {volume.reason}. {volume.advice}")
    return volume.voxels


def read_itk(folder: Path) -> np.ndarray:
    home = next(path.parent for path in sorted(folder.rglob("*.dcm")))
    (series_id,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(home))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(home), series_id))
    return sitk.GetArrayFromImage(reader.Execute())


def read_bytes(files: list[Path]) -> int:
    return sum(len(path.read_bytes()) for path in files)


def walk_headers(files: list[Path]) -> None:
    for path in files:
        with open(path, "rb") as stream:
            read_elements(stream)


def pydicom_headers(files: list[Path]) -> None:
    """The pass of headers as most readers write it."""
    for path in files:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        _ = dataset.SeriesInstanceUID, dataset.ImagePositionPatient, dataset.RescaleSlope


def timed(read: Callable, argument) -> float:
    begin = time.process_time()
    read(argument)
    return time.process_time() - begin


def write_series(folder: Path, num_slices: int = NUM_SLICES, syntax: str = uid.ExplicitVRLittleEndian) -> Path:
    """A series with noise and a fill outside a circle, as scanners store it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.indices((512, 512)) - 256
    for number in range(num_slices):
        pixels = np.where(x**2 + y**2 < 250**2, rng.normal(200, 40, (512, 512)), -2000).astype(np.int16)
        dataset = slice_dataset(pixels, number)
        if syntax == uid.ExplicitVRBigEndian:
            dataset.PixelData = pixels.astype(">i2").tobytes()
        if syntax == uid.RLELossless:
            dataset.compress(syntax)
        dataset.file_meta.TransferSyntaxUID = syntax
        file = io.BytesIO()
        form = {"implicit_vr": uid.UID(syntax).is_implicit_VR, "little_endian": uid.UID(syntax).is_little_endian}
        pydicom.dcmwrite(file, dataset, enforce_file_format=True, **form)
        (folder / f"{number:03d}.dcm").write_bytes(file.getvalue())
    return folder


def slice_dataset(pixels: np.ndarray, number: int) -> Dataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": uid.CTImageStorage,
        "SOPInstanceUID": f"1.2.3.{number}",
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.2.3",
        "PatientID": "benchmark",
        "Modality": "CT",
        "ImagePositionPatient": [-180, -180, 2.5 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.703125, 0.703125],
        "Rows": 512,
        "Columns": 512,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    for name, value in values.items():
        setattr(dataset, name, value)
    block = dataset.private_block(0x0009, "BENCHMARK", create=True)
    for element in range(NUM_PRIVATE):
        block.add_new(element, "LO", "some text")
    dataset.PixelData = pixels.tobytes()
    # Through bytes once, so that nothing of how it was made remains.
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(file.getvalue()))


if __name__ == "__main__":
    main()
