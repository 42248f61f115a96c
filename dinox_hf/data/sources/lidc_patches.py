"""LIDC-IDRI as square patches: one npz with a nodule in the middle of each, in HU, and the readers' ratings beside it.

The layout is that of the public repository mtzig/LIDC_GDRO, which cut the slice of largest area of each nodule of
LIDC-IDRI, brought into one file with HU restored. Nothing in the file is unpickled.
"""

import dataclasses
import hashlib
import lzma
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..leaks import check_one_patient_a_series
from ..schema import CHARACTERISTICS
from ..volume import INT16_MIN, Volume

PADDING_HU = -2048  # outside the scanner's field of view
HALVES = ("half_a", "half_b")
MAX_READERS = 4
# The file's own spelling, where it differs from the columns of our sets.
_RATINGS = {name: f"ratings_{name.replace('_', '')}" for name in CHARACTERISTICS}
_COLUMNS = ("patient_id", "series_uid", "nodule_id", "pixel_mm", "z_mm", "equiv_diameter_mm")


@dataclass(frozen=True, eq=False)
class NodulePatches:
    """N nodules, one square slice of each with the nodule in the middle."""

    pixels_hu: np.ndarray  # (N, S, S) int16, padding as stored
    pixel_mm: np.ndarray  # (N,) side of a pixel
    z_mm: np.ndarray  # (N,) position of the slice in its series
    patient_ids: np.ndarray  # (N,) the collection's pseudonyms
    series_ids: np.ndarray  # (N,)
    nodule_ids: np.ndarray  # (N,) text, unique
    diameter_mm: np.ndarray  # (N,) of the circle with the nodule's area on this slice
    ratings: dict[str, list[list[int]]]  # by characteristic: of every nodule, one number a reader who gave one

    def __len__(self) -> int:
        return len(self.pixels_hu)

    @property
    def digest(self) -> str:
        """Sixteen hex digits that name pixels, places and patients."""
        digest = hashlib.sha256()
        for array in (self.pixels_hu, self.pixel_mm, self.z_mm):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\n".join([*self.patient_ids, *self.series_ids, *self.nodule_ids]).encode())
        return digest.hexdigest()[:16]

    def take(self, rows: np.ndarray) -> "NodulePatches":
        """Some of the nodules, by their numbers and in their order."""
        arrays = {
            each.name: getattr(self, each.name)[rows] for each in dataclasses.fields(self) if each.name != "ratings"
        }
        ratings = {name: [values[row] for row in rows] for name, values in self.ratings.items()}
        return NodulePatches(**arrays, ratings=ratings)

    def padding_hu(self, index: int) -> int | None:
        """The fill outside the field of view, None for a patch that lies inside."""
        return PADDING_HU if (self.pixels_hu[index] == PADDING_HU).any() else None

    def volume(self, index: int) -> Volume:
        """A patch as a scan of one slice.

        What the file does not tell is NaN: the distance between slices, and where the patch lies in its slice.
        """
        side = float(self.pixel_mm[index])
        affine = np.diag([side, side, np.nan, 1.0])
        affine[:2, 3] = np.nan
        return Volume(
            voxels=self.pixels_hu[index : index + 1],
            z_mm=self.z_mm[index : index + 1].astype(np.float64),
            affine_lps=affine,
            slice_uids=(),
            series_id=f"{self.series_ids[index]}/{self.nodule_ids[index]}",
            patient_id=str(self.patient_ids[index]),
            modality="ct",
            padding_hu=self.padding_hu(index),
        )


def half_of(patient_id: str) -> str:
    """The half of a patient, by a hash: it stays the same when others join, and all nodules of a patient share it."""
    draw = int(hashlib.sha256(f"dinox half {patient_id}".encode()).hexdigest()[:8], 16)
    return HALVES[draw % 2]


def read_patches(path: str | Path) -> NodulePatches:
    """Read the npz, checking everything that is used.

    Args:
        path: the file; its arrays are listed in docs/learning.md.

    Raises:
        ValueError: if it is missing, damaged or no npz, holds pickled objects, lacks an array, holds numbers that
            cannot be, or one patient under two names.
    """
    path = Path(path)
    names = ("hu", *_COLUMNS, *_RATINGS.values())
    arrays = _read_arrays(path, names)
    num = len(arrays["hu"])
    is_stack = arrays["hu"].ndim == 3 and num > 0 and len({*arrays["hu"].shape[1:]}) == 1
    _expect(path, is_stack, "hu", "square patches, one or more, (N, S, S)", arrays["hu"])
    _expect(path, _is_whole_hu(arrays["hu"]), "hu", "whole HU that fit int16 above its smallest", arrays["hu"])
    for name in _COLUMNS:
        _expect(path, arrays[name].shape == (num,), name, f"({num},), one value a patch", arrays[name])
    for name in ("pixel_mm", "equiv_diameter_mm"):
        is_length = np.issubdtype(arrays[name].dtype, np.number) and np.isfinite(arrays[name]).all()
        _expect(path, is_length and (arrays[name] > 0).all(), name, "millimetres above 0", arrays[name])
    is_position = np.issubdtype(arrays["z_mm"].dtype, np.number) and np.isfinite(arrays["z_mm"]).all()
    _expect(path, is_position, "z_mm", "finite millimetres", arrays["z_mm"])
    unique = len(np.unique(arrays["nodule_id"])) == num
    _expect(path, unique, "nodule_id", "another one for each patch", arrays["nodule_id"])
    # Blanks around a name would make another patient of the same one.
    patient_ids = np.char.strip(arrays["patient_id"].astype(str))
    series_ids = np.char.strip(arrays["series_uid"].astype(str))
    _expect(path, (patient_ids != "").all(), "patient_id", "a name for each patch", arrays["patient_id"])
    for name in _RATINGS.values():
        values = arrays[name]
        is_rating = values.shape == (num, MAX_READERS) and np.isin(values, range(7)).all()
        _expect(path, is_rating, name, f"({num}, {MAX_READERS}) ratings 1 to 6, 0 for none", values)
    pixels_hu = arrays["hu"].astype(np.int16)
    check_one_patient_a_series(patient_ids, series_ids, path.name)
    _refuse_copies(path, pixels_hu, patient_ids)
    return NodulePatches(
        pixels_hu=pixels_hu,
        pixel_mm=arrays["pixel_mm"].astype(np.float64),
        z_mm=arrays["z_mm"].astype(np.float64),
        patient_ids=patient_ids,
        series_ids=series_ids,
        nodule_ids=arrays["nodule_id"].astype(str),
        diameter_mm=arrays["equiv_diameter_mm"].astype(np.float64),
        ratings={
            name: [[int(rating) for rating in row if rating > 0] for row in arrays[column]]
            for name, column in _RATINGS.items()
        },
    )


def _read_arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(
            f"Expected an npz of nodule patches; found no file at {path}. Check the path; docs/learning.md says where "
            f"the patches come from."
        )
    if not zipfile.is_zipfile(path):
        raise ValueError(f"Expected an npz of nodule patches; found a file of another kind at {path}. Check the path.")
    # Without allow_pickle=False an npz from elsewhere could run code.
    with np.load(path, allow_pickle=False) as file:
        missing = [name for name in names if name not in file.files]
        if missing:
            raise ValueError(
                f"Expected the arrays {', '.join(names)} in {path}; {', '.join(missing)} missing, found "
                f"{', '.join(file.files)}. See docs/learning.md for the layout."
            )
        try:
            return {name: file[name] for name in names}
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise ValueError(
                f"Expected a whole npz of nodule patches; found a damaged one at {path} ({error}). Copy it once more."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"Expected plain arrays in {path}; found one that cannot be read as such ({error}). Pickled objects "
                f"are refused, since reading them could run code: write the array with a plain number or text type."
            ) from error


def _is_whole_hu(values: np.ndarray) -> bool:
    """Whether the values are integers that int16 holds, whatever type they are stored in."""
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values) or not np.isfinite(values).all():
        return False
    return values.min() > INT16_MIN and values.max() < -INT16_MIN and bool((values == np.rint(values)).all())


def _refuse_copies(path: Path, pixels_hu: np.ndarray, patient_ids: np.ndarray) -> None:
    """Two patients with the same image are one patient under two names, even where the series has two as well."""
    owners: dict[bytes, str] = {}
    for patch, patient_id in zip(pixels_hu, patient_ids, strict=True):
        owner = owners.setdefault(hashlib.sha256(patch.tobytes()).digest(), patient_id)
        if owner != patient_id:
            raise ValueError(
                f"Expected no image of {path} under two patients; found the same patch of {owner} and {patient_id}. "
                f"Give both the same patient_id, or leave one out: they would stand on both sides of a fold."
            )


def _expect(path: Path, is_met: bool, name: str, wanted: str, found: np.ndarray) -> None:
    if not is_met:
        start = f", beginning with {found.reshape(-1)[:3].tolist()}" if found.ndim < 3 else ""
        raise ValueError(
            f"Expected {name} of {path} to be {wanted}; found {found.dtype} of shape {found.shape}{start}. "
            f"See docs/learning.md for the layout."
        )
