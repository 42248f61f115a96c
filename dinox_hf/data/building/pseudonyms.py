"""Salted hashes in place of patient ids, UIDs and paths, so that a set of a hospital's scans leads nobody back."""

import hashlib
import hmac
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from ..volume import Rejection

MIN_SALT_BYTES = 16
# Endings that say what a file is; any other could be a part of a name.
KNOWN_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".raw", ".zraw", ".dcm", ".xml", ".zip", ".json")
UID = re.compile(r"\b\d+(?:\.\d+){3,}\b")
QUOTED = re.compile(r"(?<!\w)(['\"]).+?\1(?!\w)")
WORD_START = re.compile(r"(?:^|(?<=[\s'\"(=]))(?=\S)")
WORD_END = re.compile(r"(?<=\S)(?=[\s'\"),;:.]|$)")

NO_NAMES: Mapping[str, Callable[[str], str]] = MappingProxyType({})


@dataclass(frozen=True)
class Pseudonyms:
    """What stands for the names of a collection: salted hashes, or without a salt the names themselves.

    HMAC-SHA256 with a secret salt: equal over runs, machines and workers, and without the salt neither reversed nor
    found by hashing every possible patient number.
    """

    salt: bytes | None = field(default=None, repr=False)

    @classmethod
    def from_file(cls, path: str | Path | None) -> "Pseudonyms":
        """Read the salt; without a file, names are kept.

        Raises:
            ValueError: if there is no such file, or it holds too little to be a secret.
        """
        if path is None:
            return cls()
        make = f"Make one that you keep to yourself: (umask 077; openssl rand -hex 32 > {path})"
        if not Path(path).is_file():
            raise ValueError(f"The salt file should hold a secret; found no file at {path}. {make}")
        salt = Path(path).read_bytes().strip()
        if len(salt) < MIN_SALT_BYTES:
            raise ValueError(
                f"The salt file should hold {MIN_SALT_BYTES} random bytes or more; found {len(salt)} in {path}. {make}"
            )
        return cls(salt)

    @property
    def are_salted(self) -> bool:
        """Whether names are replaced."""
        return self.salt is not None

    @property
    def fingerprint(self) -> str:
        """Tells two salts apart without telling them."""
        return self._hash("salt", "") if self.salt else "names kept"

    def patient(self, patient_id: str) -> str:
        """What stands for a patient."""
        return f"patient-{self._hash('patient', patient_id)[:20]}" if self.salt else patient_id

    def uid(self, uid: str) -> str:
        """What stands for a UID, or for another name of a series or slice: a valid UID; an empty one stays empty."""
        if not self.salt or not uid:
            return uid
        # DICOM PS3.5 B.2: 2.25. and the decimal number of a UUID.
        return f"2.25.{uuid.UUID(self._hash('uid', uid)[:32], version=5).int}"

    def name(self, name: str) -> str:
        """What stands for a reader's own name of a finding."""
        return f"finding-{self._hash('name', name)[:12]}" if self.salt and name else name

    def path(self, path: str) -> str:
        """What stands for a path: every folder and file by itself, so that what lay together still does."""
        if not self.salt or path == ".":
            return path
        return "/".join(self._part(part) for part in path.split("/"))

    def text(self, text: str, names: Mapping[str, Callable[[str], str]] = NO_NAMES) -> str:
        """A sentence of the report with pseudonyms for the paths and ids in it.

        Args:
            text: a reason, an advice or a warning.
            names: paths and ids that may stand in it, and what makes their pseudonyms; UIDs are found without, and
                what is quoted is left out.
        """
        if not self.salt:
            return text
        pieces, position = [], 0
        for start, end in _find(text, names):
            pieces += [self._scrub(text[position:start]), names[text[start:end]](text[start:end])]
            position = end
        return "".join([*pieces, self._scrub(text[position:])])

    def rejection(self, rejection: Rejection, names: Mapping[str, Callable[[str], str]] = NO_NAMES) -> Rejection:
        """A rejection as the report may show it."""
        if not self.salt:
            return rejection
        return replace(
            rejection,
            path=self.path(rejection.path),
            reason=self.text(rejection.reason, names),
            advice=self.text(rejection.advice, names),
        )

    def _part(self, part: str) -> str:
        ending = next((ending for ending in KNOWN_ENDINGS if part.lower().endswith(ending)), "")
        return f"{self._hash('path', part)[:12]}{ending}"

    def _scrub(self, text: str) -> str:
        return UID.sub(lambda match: self.uid(match[0]), QUOTED.sub("'…'", text))

    def _hash(self, kind: str, value: str) -> str:
        return hmac.new(self.salt, f"{kind}\0{value}".encode(errors="surrogateescape"), hashlib.sha256).hexdigest()


def _find(text: str, names: Mapping[str, Callable]) -> list[tuple[int, int]]:
    """Where known names stand in a text, the longest first where they overlap. Names may hold blanks."""
    found, position = [], 0
    ends = [match.start() for match in WORD_END.finditer(text)]
    for start in (match.start() for match in WORD_START.finditer(text)):
        end = next((end for end in reversed(ends) if end > start and text[start:end] in names), None)
        if start >= position and end:
            found.append((start, end))
            position = end
    return found
