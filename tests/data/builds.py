"""Small inputs of the builder, what a build leaves, and builds that are killed on the way."""

import os
import signal
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from datasets import load_dataset

from dinox_hf.data.builder import build_dataset
from dinox_hf.data.building.pieces import peak_memory_mb
from tests.data.scans import nodule_xml, sphere_hu, square, write_series, write_xml

# What changes names on the disk. rmtree is made of these as well.
STEPS = ("replace", "link", "fsync", "mkdir", "rmdir", "unlink")


def write_patient(raw: Path, number: int, **tags) -> list[Path]:
    """One patient with a nodule outlined by two readers, one of whom also marks a small nodule and a non-nodule."""
    series = f"1.2.{number}"
    folder = raw / f"patient{number}"
    files = write_series(
        folder, sphere_hu() + np.int16(number), **{"SeriesInstanceUID": series, "PatientID": f"P{number}"} | tags
    )
    roi = (-27.5, f"{series}.1", square(3, 9))
    marks = small_nodule_xml(-25.0, f"{series}.2", (4, 5)) + non_nodule_xml(-22.5, f"{series}.3", (6, 7))
    write_xml(folder / "reads.xml", [nodule_xml([roi]) + marks, nodule_xml([roi], malignancy=2)], series)
    return files


def small_nodule_xml(z_mm: float, slice_uid: str, point: tuple[int, int], name: str = "S1") -> str:
    """One reader's point (column, row) on a nodule below 3 mm."""
    return (
        f"<unblindedReadNodule><noduleID>{name}</noduleID><roi><imageZposition>{z_mm}</imageZposition><imageSOP_UID>"
        f"{slice_uid}</imageSOP_UID><edgeMap><xCoord>{point[0]}</xCoord><yCoord>{point[1]}</yCoord></edgeMap></roi>"
        f"</unblindedReadNodule>"
    )


def non_nodule_xml(z_mm: float, slice_uid: str, point: tuple[int, int], name: str = "O1") -> str:
    """One reader's point (column, row) on what is no nodule."""
    return (
        f"<nonNodule><nonNoduleID>{name}</nonNoduleID><imageZposition>{z_mm}</imageZposition><imageSOP_UID>"
        f"{slice_uid}</imageSOP_UID><locus><xCoord>{point[0]}</xCoord><yCoord>{point[1]}</yCoord></locus></nonNodule>"
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def opens(out: Path, cache: Path) -> bool:
    """Whether `load_dataset` opens any configuration of a folder."""
    for configuration in (None, "slices", "nodules", "marks"):
        try:
            load_dataset(str(out), configuration, cache_dir=str(cache))
        except (FileNotFoundError, ValueError):
            continue
        return True
    return False


def start_build(*arguments, die_at: int | None = None, **options):
    """Start a build in a process of its own; with `die_at` it kills itself after that many steps on the disk."""
    # A fresh process that has imported everything once: each build costs a fork, not seconds of imports.
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.data.builds"])
    process = context.Process(target=_build, args=(die_at, arguments, options))
    process.start()
    return process


def killed_build(die_at: int, *arguments, **options) -> bool:
    """Run a build that kills itself after some steps on the disk; whether it got that far."""
    process = start_build(*arguments, die_at=die_at, **options)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def peak_of_build(*arguments, **options) -> float:
    """Largest memory in MB of a fresh process that builds a set."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.data.builds"])
    answer = context.SimpleQueue()
    process = context.Process(target=_tell_peak, args=(answer, arguments, options))
    process.start()
    process.join()
    return answer.get()


def _tell_peak(answer, arguments: tuple, options: dict) -> None:
    build_dataset(*arguments, **options)
    answer.put(peak_memory_mb())


def _build(die_at: int | None, arguments: tuple, options: dict) -> None:
    steps = count(1)

    def deadly(step):
        def take(*args, **kwargs):
            result = step(*args, **kwargs)
            if next(steps) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return take

    if die_at is not None:
        for name in STEPS:
            setattr(os, name, deadly(getattr(os, name)))
    build_dataset(*arguments, **options)
