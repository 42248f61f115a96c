"""What a run started from, released weights or the run before: its backbone beside the trained one, if at hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...model.weight_files import find_weights, read_tensors, sha256_of, weight_files
from .features import Backbone, loaded_twin
from .lineage import origin_name


@dataclass(frozen=True)
class StartingWeights:
    """A backbone as its run began with it; either it is here, or the reason why not."""

    name: str  # see `origin_name`
    backbone: Backbone | None
    missing: str | None


def starting_weights(trained: Backbone, run: dict[str, Any] | None) -> StartingWeights | None:
    """Read again what `lineage: origin` of a run.yaml names.

    Args:
        trained: what became of them; gives architecture and image processor, so that both see the same pixels.
        run: the run.yaml; None for a backbone that is no run.

    Returns:
        None where the run began with a random draw. Weights that are gone, or no longer those that the run recorded,
        are no error: an evaluation has more to say than this comparison.
    """
    origin = (run or {}).get("lineage", {}).get("origin")
    if origin is None:
        return None
    name, (place, revision) = origin_name(origin), _place(origin)
    if revision is None and not Path(place).exists():
        return StartingWeights(name, None, "it is no longer where it was")
    try:
        files = weight_files(find_weights(place, revision)[0], place)
        if origin.get("sha256") not in (None, sha256_of(files)):
            return StartingWeights(name, None, "the files there are not those that it started from")
        return StartingWeights(name, loaded_twin(trained, read_tensors(files)), None)
    except (OSError, ValueError, RuntimeError):
        where = "from the Hub" if revision else "where it was"
        return StartingWeights(name, None, f"it could not be read {where}")


def _place(origin: dict[str, Any]) -> tuple[str, str | None]:
    """Where to read them again, and the revision, None for a place on this machine."""
    if "from_run" in origin:
        return str(Path(origin["from_run"]) / "checkpoints" / f"step_{origin['step']:08d}"), None
    return origin["weights"], origin.get("revision")
