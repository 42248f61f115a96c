"""Files that hold a backbone: on the Hub, in a folder of transformers or of a run, in Meta's layout (not shipped)."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors.torch import load_file
from torch import Tensor

_WANTED_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "LICENSE*",
]
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def find_weights(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Find a backbone, and download it where it is not here.

    Args:
        name: an id on the Hub; or a path: a folder of transformers, our run or one of its checkpoints, a
            `.safetensors` file, or a `.pth` file in Meta's layout.
        revision: which one on the Hub; None for the newest.

    Returns:
        The file or folder – of a run its newest checkpoint's backbone – and the revision, None unless from the Hub.

    Raises:
        ValueError: there is no such thing.
        RuntimeError: the Hub could not be reached, or wants its licence accepted first.
    """
    path, found = Path(name), None
    if not path.exists():
        path = _download(name, revision)
        found = path.name  # of the snapshot
    complete = sorted(path.glob("checkpoints/step_*/state.json"))
    path = complete[-1].parent if complete else path
    return (path / "backbone" if (path / "backbone" / "config.json").is_file() else path), found


def weight_files(path: Path, name: str) -> list[Path]:
    """The files with tensors of what `find_weights` found under that name; ValueError if there are none."""
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.pth"))
    if not files:
        raise ValueError(
            f"The weights to start from should be *.safetensors or a .pth file; found neither in {path}, named as "
            f"{name!r}. Name the folder that `hf download` filled, a run's folder, or the file itself."
        )
    return files


def read_tensors(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of a backbone, in the spelling of the files. No code in them is run."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_file(file)
    return tensors


def sha256_of(files: Sequence[Path]) -> str:
    """One fingerprint of the content of files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            for chunk in iter(lambda: stream.read(1 << 24), b""):
                digest.update(chunk)
    return digest.hexdigest()


def _download(name: str, revision: str | None) -> Path:
    if not _HUB_ID.fullmatch(name):
        raise ValueError(
            f"The weights to start from should be an id on the Hub, owner/name, or an existing path; found {name!r}, "
            f"and no such file or folder in {Path.cwd()}. Check the spelling, or name the folder from where you stand."
        )
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED_FILES))
    except GatedRepoError as error:
        raise RuntimeError(
            f"Expected to download {name}; found that its owner wants a licence accepted first. Accept it on "
            f"https://huggingface.co/{name}, sign in with `hf auth login`, and start again."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ValueError(
            f"The weights to start from should be an id on the Hub or an existing path; found {name!r}, which is "
            f"neither. Check the spelling; a private repository needs `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        folder = name.rpartition("/")[2]
        raise RuntimeError(
            f"Expected to download {name}, as no such file or folder is here; found no way to the Hub and no earlier "
            f"download. Mend the path if one was meant. Else run `hf download {name} --local-dir {folder}` where "
            f"there is a network, bring the folder here, and pass --init={folder}."
        ) from error


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    # `weights_only` reads tensors and nothing that could run.
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    # The reference's own teacher: a backbone and two heads. Heads are drawn anew, as for any released backbone.
    tensors = tensors.get("teacher", tensors)
    inside = {key.removeprefix("backbone."): value for key, value in tensors.items() if key.startswith("backbone.")}
    return inside or tensors
