"""Damaged files by the thousand: each is refused, or gives the scan that it was; never an exception, never a hang.

One file of a small series is damaged at a time, in every transfer syntax, as enhanced multi-frame and inside an
archive. Flips inside pixels and numbers give other values, which no reader can tell, and are left out; they are thrown
in again at the end, where anything but a crash will do.
"""

import io
import random
import resource
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from dinox_hf.data.readers.files import _open_archive
from dinox_hf.data.readers.series import read_series
from dinox_hf.data.volume import Rejection, Volume
from tests.data.encodings import SYNTAXES, encode, enhanced_dataset, zip_of
from tests.data.readers.mutations import MUTATIONS, Original, flipped_anywhere
from tests.data.scans import slice_dataset, sphere_hu

KINDS = [*SYNTAXES, "enhanced", "enhanced RLE", "zip", "zip stored"]
MEMORY_LIMIT = 2 << 30  # beyond what is in use: a declared 65535 x 65535 image would take 8 GB


@pytest.fixture(autouse=True)
def bounded_memory():
    """Any attempt to take gigabytes fails, and shows as a reason with its name."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def made_in_code(kind: str) -> dict[str, bytes]:
    """Files of a series; the first is the one to be damaged."""
    if kind.startswith("enhanced"):
        return {"all.dcm": encode(enhanced_dataset(), "RLE" if "RLE" in kind else "explicit")}
    syntax = kind if kind in SYNTAXES else "explicit"
    files = {
        f"{index}.dcm": encode(slice_dataset(pixels, -30 + 2.5 * index, index), syntax)
        for index, pixels in enumerate(sphere_hu())
    }
    if kind.startswith("zip"):
        return {"scan.zip": zip_of(files, zipfile.ZIP_STORED if "stored" in kind else zipfile.ZIP_DEFLATED)}
    # The end of the stack is the harder place: nothing there leaves a gap.
    return {"5.dcm": files.pop("5.dcm"), **files}


def check_mutants(folder, files: dict[str, bytes], draw: random.Random, count: int, mutations=MUTATIONS) -> list[int]:
    """Damage the first file `count` times; returns how often that was refused and how often it did no harm."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (whole,) = [entry for entry in read_series(folder) if isinstance(entry, Volume)]
    name, content = next(iter(files.items()))
    original = Original(content, [], []) if name.endswith(".zip") else Original.of(content)
    refused = unharmed = 0
    for number in range(count):
        mutate = draw.choice(mutations)
        mutant = mutate(draw, original)
        (folder / name).write_bytes(mutant)
        # Two mutants within one tick of the clock of files would look alike.
        _open_archive.cache_clear()
        results = list(read_series(folder))
        told = f"{mutate.__name__} {number}: {[r for r in results if isinstance(r, Rejection)][:2]}"
        assert results and all(isinstance(result, (Volume, Rejection)) for result in results), told
        rejections = [result for result in results if isinstance(result, Rejection)]
        assert all(entry.reason and entry.advice and "MemoryError" not in entry.reason for entry in rejections), told
        volumes = [result for result in results if isinstance(result, Volume)]
        if mutations is MUTATIONS:
            assert volumes or any(entry.loses == "scan" for entry in rejections), told
            for volume in volumes:
                np.testing.assert_array_equal(volume.voxels, whole.voxels, told)
                np.testing.assert_allclose(volume.z_mm, whole.z_mm, err_msg=told)
                np.testing.assert_allclose(volume.affine_lps, whole.affine_lps, err_msg=told)
        refused, unharmed = refused + (not volumes), unharmed + bool(volumes)
    return [refused, unharmed]


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_of_every_kind_of_file_are_refused_or_harmless(tmp_path, kind):
    files = made_in_code(kind)
    refused, unharmed = check_mutants(tmp_path / "raw", files, random.Random(1), 20)
    assert refused + unharmed == 20 and refused
    check_mutants(tmp_path / "raw", files, random.Random(2), 5, [flipped_anywhere])


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_hundreds_of_mutants_of_every_kind_of_file_are_refused_or_harmless(tmp_path, kind):
    files = made_in_code(kind)
    refused, unharmed = check_mutants(tmp_path / "raw", files, random.Random(3), 400)
    # The checksums of an archive let hardly anything pass.
    assert refused > 100 and (unharmed > 10 or kind.startswith("zip"))
    check_mutants(tmp_path / "raw", files, random.Random(4), 100, [flipped_anywhere])


def real_series(real_data) -> dict[str, dict[str, bytes]]:
    """Real files by kind: each of eight transfer syntaxes between two neighbours, enhanced, a series, an archive."""
    oddities = real_data / "dicom_oddities"
    kinds = {"enhanced": {"all.dcm": (oddities / "enhanced_ct_multiframe.dcm").read_bytes()}}
    three = {path.name: path.read_bytes() for path in sorted((oddities / "ct_3slices_with_dicom_seg").glob("0*.dcm"))}
    kinds |= {"series": three, "zip": {"scan.zip": zip_of(three)}}
    folder = oddities / "chest_slice_transfer_syntaxes"
    for path in sorted(folder.glob("*.dcm")):
        files = {"real.dcm": path.read_bytes()}
        for number in (1, 2):
            dataset = pydicom.dcmread(folder / "LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm")
            dataset.SOPInstanceUID += f".{number}"
            dataset.ImagePositionPatient[2] += 5 * number
            file = io.BytesIO()
            dataset.save_as(file)
            files[f"{number}.dcm"] = file.getvalue()
        kinds[path.stem] = files
    return kinds


@pytest.mark.long
@pytest.mark.real_data
def test_two_thousand_mutants_of_real_files_are_refused_or_harmless(tmp_path, real_data):
    kinds = real_series(real_data)
    totals = np.zeros(2, int)
    for number, files in enumerate(kinds.values()):
        totals += check_mutants(tmp_path / "raw", files, random.Random(number), 2000 // len(kinds) + 1)
        check_mutants(tmp_path / "raw", files, random.Random(number), 10, [flipped_anywhere])
    assert totals.sum() >= 2000 and totals.min() > 100
