import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "volume_memory.py"


@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_slices():
    """40 slices more hold 21 MB of voxels ; read whole, a series shows what that costs."""
    environment = os.environ | {"PYTHONPATH": str(BENCHMARK.parents[1])}
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "vit_tiny", "2.4"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    peaks = [float(found.replace(",", "")) for found in re.findall(r"peak ([\d,.]+) MB", done.stdout)]
    of_20, of_40, of_80, whole = peaks
    assert of_80 - of_40 < 8 and of_40 - of_20 < 8
    assert whole - of_80 > 15
