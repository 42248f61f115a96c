"""What could lead back to a patient: UIDs and patient ids that are neither salted hashes nor public pseudonyms."""

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pyarrow.types as types
from PIL import Image

from .checks import leaks_in

_UID = re.compile(r"(?<![\w.])[0-2](?:\.\d+){4,}(?!\w)")
_DICOMS_OWN = "1.2.840.10008."  # classes and transfer syntaxes of the standard
# The forms that a builder of ours gives with --salt-file, and the pseudonyms under which a collection is published.
_SALTED_PATIENT = re.compile(r"patient-[0-9a-f]{20}")
_PUBLIC_PATIENT = re.compile(r"(?:LIDC-IDRI|PHANTOM)-\d{4}")
_SHORTEST_WORD = 4  # shorter patient ids also stand in text by chance
_UID_COLUMNS = {"series_id", "slice_uid"}
_MEND = "Build the set again with --salt-file, which keeps patients apart without naming them."


def is_public(patient_ids: Iterable[str]) -> bool:
    """Whether all patients have the public pseudonym of a published collection, so that its UIDs are public too."""
    return all(_PUBLIC_PATIENT.fullmatch(patient_id) for patient_id in patient_ids)


def is_salted(name: str) -> bool:
    """Whether a patient id or UID is a salted hash: patient-…, or 2.25. and the number of a version 5 UUID."""
    if _SALTED_PATIENT.fullmatch(name):
        return True
    number = name.removeprefix("2.25.")
    is_uuid = name.startswith("2.25.") and number.isdigit() and int(number) < 2**128
    return is_uuid and uuid.UUID(int=int(number)).version == 5


def uids_in(text: str) -> set[str]:
    """Every UID in a text that could be one of a patient's scans."""
    found = {match.group() for match in _UID.finditer(text)}
    return {uid for uid in found if not uid.startswith(_DICOMS_OWN) and not is_salted(uid)}


def refuse_identifiers_in_text(files: dict[str, Path], patient_ids: set[str]) -> str:
    """Look through cards, JSON and the texts inside pictures.

    Args:
        files: by path in the repository.
        patient_ids: those of the data, where they are known; public and salted ones do no harm.

    Raises:
        ValueError: naming each file and what stands there.
    """
    names = {name for name in patient_ids if not (_PUBLIC_PATIENT.fullmatch(name) or is_salted(name))}
    words = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(names) if len(name) >= _SHORTEST_WORD))
    uids_are_public = bool(patient_ids) and is_public(patient_ids)
    found, num_texts = [], 0
    for name, text in _texts(files):
        num_texts += 1
        told = set() if uids_are_public else uids_in(text)
        told |= set(words.findall(text)) if words.pattern else set()
        found += [f"{name}: {word}" for word in sorted(told)[:3]]
    if found:
        raise ValueError(
            f"Texts that are published should name no patient, study or scan; found {'; '.join(found)}. {_MEND}"
        )
    uids = "UIDs of a public collection" if uids_are_public else "no UID"
    return f"{uids} and none of {len(names)} secret patient ids in {num_texts} texts"


def patients_of(files: Iterable[Path]) -> set[str]:
    """Every patient id in the rows of some Parquet files."""
    found: set[str] = set()
    for path in files:
        if "patient_id" in pq.read_schema(path).names:
            found |= set(pq.read_table(path, columns=["patient_id"])["patient_id"].unique().to_pylist())
    return found - {None}


def refuse_identifiers_in_rows(shards: dict[str, Path], private: set[str]) -> str:
    """Look through every text column and the metadata of Parquet files.

    Args:
        shards: by path in the repository.
        private: of `private_words`.

    Raises:
        ValueError: naming shard, column and one example of each.
    """
    patients = patients_of(shards.values())
    are_public = is_public(patients)
    found = {
        f"{name}, {column}: {offence}"
        for name, path in shards.items()
        for column, values in _text_columns(path)
        if (offence := next(filter(None, (_offence(column, value, are_public, private) for value in values)), None))
    }
    if found:
        raise ValueError(
            f"Rows that are published should hold salted hashes in place of patient ids and UIDs, and no path of a "
            f"machine; found {'; '.join(sorted(found)[:4])}. {_MEND}"
        )
    names = "the public pseudonyms of their collection" if are_public else "salted hashes"
    return f"{len(patients)} patients by {names}"


def _offence(column: str, value: str, are_public: bool, private: set[str]) -> str | None:
    """What in one value tells too much; None if nothing does."""
    leaks = leaks_in(value, private)
    if are_public:
        return leaks[0] if leaks else None
    if column == "patient_id" or column in _UID_COLUMNS:
        return None if not value or is_salted(value) else value
    return next(iter([*leaks, *uids_in(value)]), None)


def _text_columns(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Distinct values of each text column, and what stands in the file's own metadata."""
    schema = pq.read_schema(path)
    columns = [field.name for field in schema if types.is_string(field.type) or types.is_large_string(field.type)]
    table = pq.read_table(path, columns=columns)
    for column in columns:
        yield column, [value for value in table[column].unique().to_pylist() if value is not None]
    metadata = schema.metadata or {}
    yield "metadata", [value.decode("utf-8", "replace") for value in metadata.values()]


def _texts(files: dict[str, Path]) -> Iterator[tuple[str, str]]:
    for name, path in files.items():
        if path.suffix in (".md", ".json"):
            yield name, path.read_text(encoding="utf-8")
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                yield name, json.dumps({key: str(value) for key, value in picture.info.items()})
