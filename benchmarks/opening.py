"""Opening a set as large as all of LIDC-IDRI: seconds beyond the imports, and memory that this takes.

    python benchmarks/opening.py [SLICES [SERIES]]

The set is simulated: as many shards, rows and row groups as the real one and the real columns, but images of 8 x 8.
The first opening makes the memory-mapped cache, as `load_dataset` does; the others are what every later run pays. Each
is a fresh process, which also proves that it reads what was written. Files are in the page cache.

Own memory is what the kernel counts as private and dirty. Pages of the mapped cache file are told apart: they belong
to the page cache, and the kernel takes them back when it likes, but a process that alone has the file open is charged
for them in figures such as psutil's USS.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from usage import show_help

from dinox_hf.data.schema import write_slices
from dinox_hf.data.volume import Volume

NUM_SLICES, NUM_SERIES = 244_000, 1018
OPENINGS = 5
README = """---
configs:
- config_name: slices
  data_files:
  - {split: train, path: slices/train-*.parquet}
---
"""
OPEN = """
import json, sys, time
import numpy as np
from dinox_hf.data.loader import PretrainLoader  # what training imports
from dinox_hf.data.slices import SliceSet

def megabytes(kind):
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1000

own, mapped = megabytes("Private_Dirty"), megabytes("Private_Clean")
begin, begin_cpu = time.perf_counter(), time.process_time()
slices = SliceSet(sys.argv[1])
figures = {
    "s": time.perf_counter() - begin,
    "s of CPU": time.process_time() - begin_cpu,
    "MB of its own": megabytes("Private_Dirty") - own,
    "MB of pages of the cache file": megabytes("Private_Clean") - mapped,
}
rows = np.linspace(0, len(slices) - 1, 50).astype(int)
found = [[slices.series_id(row), int(slices.pixels(row)[0, 0])] for row in rows.tolist()]
print(json.dumps({"figures": figures, "rows": len(slices), "found": found}))
"""


def main() -> None:
    """Write the set, open it several times, print one line for each figure."""
    show_help(__doc__)
    num_slices, num_series = (int(given) for given in (*sys.argv[1:], NUM_SLICES, NUM_SERIES)[:2])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        expected = write_set(folder, num_slices, num_series)
        first, *later = (open_in_new_process(folder, Path(temporary) / "cache", expected) for _ in range(OPENINGS + 1))
    print(f"{num_slices} slices of {num_series} series, images of 8 x 8; HU and names of 50 rows are those written")
    print("first opening, which makes the cache: " + ", ".join(f"{value:.1f} {unit}" for unit, value in first.items()))
    for unit in first:
        low, middle, high = statistics.quantiles([opening[unit] for opening in later], n=4)
        print(f"later openings: {middle:.2f} {unit} (quartiles {low:.2f} to {high:.2f})")


def write_set(folder: Path, num_slices: int, num_series: int) -> tuple[np.ndarray, list[str]]:
    """A shard for each series; returns HU and series of every row. All pixels of a slice have one HU."""
    (folder / "slices").mkdir(parents=True)
    (folder / "README.md").write_text(README)
    hu = (np.arange(num_slices) * 37 % 4000 - 1000).astype(np.int16)
    ends = np.linspace(0, num_slices, num_series + 1).astype(int)
    series_ids = [
        f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{100_000_000_000_000_000 + number}" for number in range(num_series)
    ]
    for number, (first, last) in enumerate(itertools.pairwise(ends)):
        volume = Volume(
            voxels=np.repeat(hu[first:last], 64).reshape(-1, 8, 8),
            z_mm=1.25 * np.arange(last - first),
            affine_lps=np.diag([0.7, 0.7, 1.25, 1.0]),
            slice_uids=tuple(f"{series_ids[number]}.{z}" for z in range(last - first)),
            series_id=series_ids[number],
            patient_id=f"LIDC-IDRI-{number:04}",
            modality="ct",
            padding_hu=-2000,
        )
        write_slices(volume, folder / "slices" / f"train-{number:05}-of-{num_series:05}.parquet")
    return hu, [series_ids[number] for number in np.repeat(np.arange(num_series), np.diff(ends))]


def open_in_new_process(folder: Path, cache: Path, expected: tuple[np.ndarray, list[str]]) -> dict[str, float]:
    """Time and memory of one opening; RuntimeError if it reads other rows than were written."""
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(folder)], capture_output=True, text=True, check=True, env=environment
    )
    opening = json.loads(done.stdout)
    hu, series_ids = expected
    rows = np.linspace(0, len(hu) - 1, 50).astype(int).tolist()
    if opening["rows"] != len(hu) or opening["found"] != [[series_ids[row], int(hu[row])] for row in rows]:
        raise RuntimeError(f"Expected the {len(hu)} rows that were written; found others in {folder}.")
    return opening["figures"]


if __name__ == "__main__":
    main()
