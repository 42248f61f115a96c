"""What Imaging Data Commons holds of LIDC-IDRI, from the index that its client brings along: no network is needed."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

COLLECTION = "lidc_idri"
# The readers' outlines (SEG) and ratings (SR) of nodules of 3 mm or more, one series per reader and nodule. Other
# segmentations of some of these scans exist, which are no part of LIDC.
ANNOTATIONS = "dicom_lidc_idri_nodules"
GIGABYTE = 10**9
_COLUMNS = {
    "PatientID": "patient_id",
    "StudyInstanceUID": "study_id",
    "SeriesInstanceUID": "series_id",
    "Modality": "modality",
    "instanceCount": "num_files",
    "series_size_MB": "num_bytes",
    "aws_bucket": "bucket",
    "license_short_name": "license",
    "source_DOI": "doi",
}


@dataclass(frozen=True, slots=True)
class RemoteSeries:
    """One DICOM series as the index describes it."""

    patient_id: str
    study_id: str
    series_id: str
    modality: str  # CT, SEG or SR
    num_files: int
    num_bytes: int
    bucket: str
    license: str
    doi: str  # of the data set it was published in

    def folder(self, out: Path) -> Path:
        """Where the client puts it: its default layout."""
        return out / COLLECTION / self.patient_id / self.study_id / f"{self.modality}_{self.series_id}"


@dataclass(frozen=True)
class Selection:
    """Whole patients: what to download, and what `max_gb` left out."""

    chosen: tuple[RemoteSeries, ...]
    left_out: tuple[RemoteSeries, ...] = ()


def read_catalogue() -> tuple[list[RemoteSeries], str]:
    """All CT series of LIDC-IDRI with their SEG and SR annotations, by patient, and the version of the index.

    Reads a few columns of the index that is installed with the client, in a second; the client itself holds all
    columns of all collections and needs 2 GB for it.

    Raises:
        RuntimeError: if the client is not installed.
    """
    try:
        import idc_index_data
    except ImportError as error:
        raise RuntimeError(
            'Downloading needs the client of Imaging Data Commons; found no package "idc-index". '
            'Install it with `pip install "dinox-hf[download]"`.'
        ) from error
    table = pq.read_table(
        idc_index_data.IDC_INDEX_PARQUET_FILEPATH,
        columns=[*_COLUMNS, "analysis_result_id"],
        filters=[("collection_id", "=", COLLECTION)],
    )
    series = [
        _remote_series(row)
        for row in table.to_pylist()
        if row["Modality"] == "CT" or row["analysis_result_id"] == ANNOTATIONS
    ]
    return sorted(series, key=lambda entry: (entry.patient_id, entry.modality, entry.series_id)), (
        idc_index_data.__version__
    )


def _remote_series(row: dict) -> RemoteSeries:
    values = {name: row[column] for column, name in _COLUMNS.items()}
    # The index counts in units of 10^6 bytes, to the byte.
    return RemoteSeries(**values | {"num_bytes": round(values["num_bytes"] * 1e6)})


def select(
    catalogue: Iterable[RemoteSeries],
    *,
    patients: Sequence[str] | None = None,
    num_patients: int | None = None,
    max_gb: float | None = None,
    with_segmentations: bool = False,
) -> Selection:
    """Choose whole patients, in the order of their ids.

    Args:
        catalogue: series of all patients.
        patients: ids; None means all.
        num_patients: only the first so many.
        max_gb: stop before the patient with whom the download would exceed so many gigabytes (10^9 bytes).
        with_segmentations: also the SEG and SR series.

    Returns:
        The series chosen and those that `max_gb` left out.

    Raises:
        ValueError: if a patient is unknown, a limit is not positive, or not one patient fits into `max_gb`.
    """
    by_patient: dict[str, list[RemoteSeries]] = {}
    for series in catalogue:
        if with_segmentations or series.modality == "CT":
            by_patient.setdefault(series.patient_id, []).append(series)
    wanted = sorted(set(patients)) if patients else sorted(by_patient)
    _check_known(wanted, list(by_patient))
    _check_limits(num_patients, max_gb)
    wanted = wanted[:num_patients]
    num_fitting = len(wanted) if max_gb is None else _num_fitting(wanted, by_patient, max_gb * GIGABYTE)
    chosen, left_out = (
        tuple(series for patient in part for series in by_patient[patient])
        for part in (wanted[:num_fitting], wanted[num_fitting:])
    )
    if not chosen:
        need = sum_bytes(by_patient[wanted[0]]) / GIGABYTE
        raise ValueError(
            f"--max-gb should hold at least one patient; found {max_gb:g} GB, and {wanted[0]} needs {need:.3f} GB. "
            f"Raise it, or choose a smaller patient with --patients."
        )
    return Selection(chosen, left_out)


def _check_known(wanted: Sequence[str], known: Sequence[str]) -> None:
    unknown = [patient for patient in wanted if patient not in known]
    if unknown:
        nearest = dict.fromkeys(match for name in unknown[:5] for match in _nearest(name, known))
        raise ValueError(
            f"--patients should be ids of LIDC-IDRI ({known[0]} to {known[-1]}, {len(known):,} in all, with a few "
            f"numbers never used); found {', '.join(map(repr, unknown[:5]))}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}. "
            + (f"Did you mean {' or '.join(nearest)}?" if nearest else f"Write them like {known[0]}.")
        )


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """Ids that end like this one, so that "0003" finds its patient, or else look like it."""
    return [patient for patient in known if patient.endswith(name)] or difflib.get_close_matches(name, known, n=2)


def _check_limits(num_patients: int | None, max_gb: float | None) -> None:
    for name, limit in {"--num-patients": num_patients, "--max-gb": max_gb}.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} should be above 0; found {limit}. Leave it out to download everything.")


def _num_fitting(patients: Sequence[str], by_patient: dict[str, list[RemoteSeries]], limit: float) -> int:
    total = 0
    for position, patient in enumerate(patients):
        total += sum_bytes(by_patient[patient])
        if total > limit:
            return position
    return len(patients)


def sum_bytes(series: Iterable[RemoteSeries]) -> int:
    """Bytes of all files of these series."""
    return sum(entry.num_bytes for entry in series)
