"""Weights as files of a size that can be downloaded: copied as they are, or split where one is too large."""

import shutil
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file

from .checks import MAX_FILE_BYTES


def copy_weights(source: Path, folder: Path, limit: int = MAX_FILE_BYTES) -> None:
    """Bring `model*.safetensors` into a folder, split with an index where a file is larger than the limit.

    Args:
        source: with the weights of one model, whole or split.
        folder: an existing folder.
        limit: bytes of a file.
    """
    files = sorted(source.glob("model*.safetensors"))
    if all(path.stat().st_size <= limit for path in files):
        for path in sorted(source.glob("model*.safetensors*")):
            shutil.copyfile(path, folder / path.name)
        return
    tensors = {name: tensor for path in files for name, tensor in load_file(path).items()}
    save_torch_state_dict(tensors, folder, max_shard_size=limit, metadata={"format": "pt"})
