"""Damaged files by the hundred: each gives a volume or a reason, never an exception."""

import random

import numpy as np
import pytest

from dinox_hf.data.readers.dicom import read_dicom_series
from dinox_hf.data.volume import Rejection, Volume
from tests.data.scans import sphere_hu, write_series


def truncated(draw: random.Random, whole: bytes) -> bytes:
    return whole[: draw.randrange(len(whole))]


def flipped(draw: random.Random, whole: bytes) -> bytes:
    """Up to eight bytes of the header changed."""
    mutant = bytearray(whole)
    for _ in range(draw.randint(1, 8)):
        mutant[draw.randrange(128, len(whole) - 2 * 24 * 20)] = draw.randrange(256)
    return bytes(mutant)


def shortened(draw: random.Random, whole: bytes) -> bytes:
    """Some bytes missing in the middle."""
    first = draw.randrange(132, len(whole) - 40)
    return whole[:first] + whole[first + draw.randint(1, 30) :]


def check_mutants(folder, count: int) -> None:
    draw = random.Random(count)
    files = write_series(folder)
    whole = files[2].read_bytes()
    outcomes = {"volume": 0, "rejection": 0}
    for _ in range(count):
        files[2].write_bytes(draw.choice([truncated, flipped, shortened])(draw, whole))
        results = list(read_dicom_series(folder))
        assert results and all(isinstance(result, (Volume, Rejection)) for result in results)
        assert all(result.reason and result.advice for result in results if isinstance(result, Rejection))
        for volume in (result for result in results if isinstance(result, Volume) and len(result.z_mm) == 6):
            np.testing.assert_array_equal(np.delete(volume.voxels, 2, axis=0), np.delete(sphere_hu(), 2, axis=0))
        outcomes["volume" if isinstance(results[0], Volume) else "rejection"] += 1
    # Damage to the header mostly matters; where it does not, the scan is still good.
    assert outcomes["rejection"] > count / 4 and outcomes["volume"] > 0


def test_a_hundred_mutants(tmp_path):
    check_mutants(tmp_path / "raw", 100)


@pytest.mark.long
def test_a_thousand_mutants(tmp_path):
    check_mutants(tmp_path / "raw", 1000)
