"""What an index of a folder holds: scans that are checked, but whose voxels are not read yet."""

from typing import Protocol

from ..volume import Rejection, Volume
from .files import RawFile


class Scan(Protocol):
    """One scan of an input folder, whatever its format: cheap to keep by the thousand, small to send to a worker."""

    @property
    def series_id(self) -> str:
        """SeriesInstanceUID, or what stands for it."""

    @property
    def patient_id(self) -> str:
        """The collection's pseudonym."""

    @property
    def files(self) -> tuple[RawFile, ...]:
        """Where its bytes lie."""

    @property
    def slice_uids(self) -> tuple[str, ...]:
        """SOPInstanceUIDs from feet to head; empty where the format has none."""

    @property
    def num_slices(self) -> int:
        """Length of the z axis."""

    @property
    def num_bytes(self) -> int:
        """Size of the voxels as int16."""

    @property
    def is_turned(self) -> bool:
        """Whether voxels differ from the stored frames by a flip or a transposition."""

    def load(self) -> Volume | Rejection:
        """Read the voxels."""
