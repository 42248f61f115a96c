"""Memory of the builder: per worker for 1, 10 and 40 scans, and what the parent keeps of every 1,000 headers.

    python benchmarks/builder_memory.py [SLICES PER SCAN]

Scans are 512 x 512 noise, so that Parquet cannot make them small. Each build is a fresh process that reports the
largest memory of its workers; a worker without any scan takes what its imports take.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from usage import show_help

from dinox_hf.data.sources.phantom_dicom import series_uids, write_series
from dinox_hf.data.sources.phantom_scanner import draw_scan

NUM_SCANS = (1, 10, 40)
SIZE = 512
HEADERS = """
import sys
from pathlib import Path
from dinox_hf.data.building import plan
from dinox_hf.data.building.pieces import peak_memory_mb
from dinox_hf.data.building.pseudonyms import Pseudonyms
from dinox_hf.data.sources import lidc_idri
given = plan.Input(Path(sys.argv[1]), Path("out"), lidc_idri, (), True, False, None, Pseudonyms())
before = peak_memory_mb()
made = plan.make_plan(given, lambda function, items, chunksize: map(function, items))
print(before, peak_memory_mb(), sum(piece.scan.num_slices for piece in made.pieces))
"""


def main() -> None:
    """Make scans, build sets of them, print one line for each figure."""
    show_help(__doc__)
    num_slices = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_scans(folder / "tiny", 1, 4, 16)
        least = build(folder / "tiny", folder)
        print(f"a worker with 4 slices of 16 x 16 pixels: {least:,.0f} MB")
        for num_scans in NUM_SCANS:
            write_scans(folder / "raw", num_scans, num_slices, SIZE)
            peak = build(folder / "raw", folder)
            series = 2 * num_slices * SIZE**2 / 1e6
            print(
                f"{num_scans} scans of {num_slices} slices ({series:,.0f} MB each): {peak:,.0f} MB per worker, "
                f"{peak - least - series:+,.0f} MB beyond that and one series"
            )
        write_scans(folder / "headers", 40, 250, 16)
        before, after, num_headers = map(float, run([sys.executable, "-c", HEADERS, str(folder / "headers")]).split())
        print(f"the parent: {before:,.0f} MB and {1000 * (after - before) / num_headers:.2f} MB per 1,000 headers")


def write_scans(folder: Path, num_scans: int, num_slices: int, size: int) -> None:
    """Scans 1..num_scans; those that are there already stay."""
    for number in range(1, num_scans + 1):
        patient = f"PHANTOM-{number:04d}"
        if (folder / patient).exists():
            continue
        (folder / patient).mkdir(parents=True)
        rng = np.random.default_rng(number)
        scan = draw_scan(rng, size, 300, num_slices)
        voxels = rng.integers(-1000, 1200, (num_slices, size, size)).astype(np.int16)
        uids = series_uids(0, patient, size, num_slices)
        write_series(folder / patient, rng, patient, scan, voxels, uids)


def build(raw: Path, folder: Path) -> float:
    """Largest memory of two workers in MB."""
    script = Path(__file__).parents[1] / "dataset_scripts" / "build_lidc_idri.py"
    with tempfile.TemporaryDirectory(dir=folder) as out:
        printed = run([sys.executable, str(script), str(raw), out, "--workers", "2"])
    return float(re.search(r"peak_worker_mb: ([\d,]+)", printed)[1].replace(",", ""))


def run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
