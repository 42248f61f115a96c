"""A folder of phantom patients as TCIA would ship it, made by many workers and put in place at once."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..workers import worker_map
from .phantom import PhantomPatient, make_patient
from .phantom_dicom import series_uids, write_series
from .phantom_readers import lidc_xml, read_images

RECORD = "phantom.json"
BUILDING = ".making"
VERSION = 1  # raise it when the same seed draws other pixels


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """What a set of phantom patients depends on."""

    patients: int = 40
    size: int = 256  # rows and columns of a slice
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("patients", 1, 9999), ("size", 32, 1024), ("seed", 0, 2**32 - 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(
                    f"A phantom set expects {name} between {low} and {high}; found {value}. "
                    f"The defaults are patients=40, size=256, seed=0."
                )


def make_phantom_set(out: Path, config: PhantomConfig, num_workers: int = 2) -> bool:
    """Make synthetic patients as DICOM series with LIDC XML; False if the folder already holds this very set.

    The patients are written under `out/.making` and moved when all are done; `phantom.json`, which also lists the
    ground truth, is written last and marks a finished set. A run that was interrupted is started anew.

    Args:
        out: the folder; new, empty, or made here before.
        config: what to draw.
        num_workers: processes; their number does not change a bit of the result.

    Raises:
        ValueError: if the folder holds anything else.
    """
    out = Path(out)
    if is_already_made(out, config):
        return False
    building = out / BUILDING
    building.mkdir(parents=True)
    try:
        truths = list(tqdm(write_patients(building, config, num_workers), total=config.patients, unit="patient"))
        for folder in sorted(building.iterdir()):
            folder.rename(out / folder.name)
        record = {"version": VERSION, "config": asdict(config), "patients": truths}
        (building / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        (building / RECORD).rename(out / RECORD)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return True


def is_already_made(out: Path, config: PhantomConfig) -> bool:
    """Whether `out` holds this set; clears what an interrupted run left, and refuses to touch anything else."""
    if (out / RECORD).is_file():
        record = json.loads((out / RECORD).read_text())
        if (record["version"], record["config"]) == (VERSION, asdict(config)):
            return True
        raise ValueError(
            f"{out} should be empty or hold the phantom set {asdict(config)} (version {VERSION}); found "
            f"{record['config']} (version {record['version']}). Give another folder, or delete this one first."
        )
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} should be a folder; found a file. Give another name.")
    # An interrupted run is known by its `.making`; without it nothing here is ours.
    ours = r"PHANTOM-\d{4}|" + re.escape(BUILDING)
    foreign = [name for name in names if BUILDING not in names or not re.fullmatch(ours, name)]
    if foreign:
        raise ValueError(
            f"{out} should be new or empty; found {len(names)} entries that are no phantom set, such as "
            f"{foreign[0]}. Give another folder: nothing here is overwritten."
        )
    for name in names:
        shutil.rmtree(out / name)
    return False


def write_patients(folder: Path, config: PhantomConfig, num_workers: int) -> Iterator[dict]:
    """Write all patients and yield their ground truth in order."""
    numbers = range(1, config.patients + 1)
    write = partial(write_patient, folder, config)
    with worker_map(min(num_workers, config.patients)) as map_:
        yield from map_(write, numbers)


def write_patient(folder: Path, config: PhantomConfig, number: int) -> dict:
    """Make one patient, let the readers read it, write series and XML; returns its ground truth."""
    patient = make_patient(config.seed, number, config.size)
    grid = patient.scan.grid
    rng = np.random.default_rng([config.seed, number, 1])
    uids = series_uids(config.seed, patient.patient_id, config.size, grid.shape[0])
    small = [grid.index(image.nodule.centre_mm) for image in patient.small_images]
    readings = read_images(rng, patient.images, small, [grid.index(place) for place in patient.lookalikes_mm])

    series_folder = folder / patient.patient_id / uids[0] / uids[1]
    series_folder.mkdir(parents=True)
    write_series(series_folder, rng, patient.patient_id, patient.scan, patient.voxels_hu, uids)
    (series_folder / f"{number:03d}.xml").write_bytes(lidc_xml(readings, *uids, grid.axis(0)))
    return ground_truth(patient, series_uid=uids[1])


def ground_truth(patient: PhantomPatient, series_uid: str) -> dict:
    """What only the maker of a phantom knows, as plain JSON."""
    return {
        "patient_id": patient.patient_id,
        "series_uid": series_uid,
        "kernel": patient.scan.kernel.name,
        "vendor": patient.scan.storage.vendor,
        "dose": patient.scan.dose,
        "spacing_mm": patient.scan.grid.spacing_mm,
        "nodules": [asdict(image.nodule) for image in patient.images],
        "small_nodules": [asdict(image.nodule) for image in patient.small_images],
    }
