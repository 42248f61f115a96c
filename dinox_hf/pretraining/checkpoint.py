"""Checkpoints: complete or absent, safetensors and JSON only, and the teacher's backbone readable by transformers.

| checkpoints/step_00000300/ | holds                                                                |
|----------------------------|----------------------------------------------------------------------|
| backbone/                  | the teacher's backbone and its processor, for `from_pretrained`      |
| backbone_adapter/          | with LoRA: the teacher's adapter, in PEFT's layout                   |
| training.safetensors       | student, teacher heads, gram teacher, optimizer, monitor             |
| state.json                 | number of updates done; size and checksum of every other file        |

With LoRA `backbone/` is merged, and a resumed run takes the teacher's adapter from training.safetensors and the frozen
weights, which all networks share, from the student.
"""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from ..data.durable_files import flush
from ..model.checkpoint_keys import refuse_other_tensors
from .checkpoint_folders import checkpoints, clear_away, discard, rotate, seal
from .low_rank import adapter_config, is_adapter, merged, save_adapter
from .sharding import placed_like, whole

_STUDENT_BACKBONE, _TEACHER_BACKBONE = "student.backbone.", "teacher.backbone."
_OPTIMIZER = "optimizer."


def latest_checkpoint(run_folder: Path) -> Path | None:
    """The complete checkpoint with the highest step, or None."""
    complete = [folder for folder in checkpoints(run_folder) if (folder / "state.json").is_file()]
    return complete[-1] if complete else None


def save_checkpoint(
    run_folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    processor: BaseImageProcessor,
    keep: int,
    extra: dict[str, Tensor] | None = None,
    is_writer: bool = True,
    keep_every: int | None = None,
) -> Path:
    """Write checkpoint `step` beside its place, move it there once it is on the disk, then delete the oldest.

    It holds whole tensors, however many processes trained them and however they were sharded.

    Args:
        run_folder: the run; the checkpoint becomes `run_folder/checkpoints/step_<step>`.
        step: number of updates done.
        model: a `SelfDistillation`, not wrapped.
        optimizer: the student's.
        processor: saved beside the backbone, so that what the network saw travels with it.
        keep: complete checkpoints that stay.
        extra: further tensors that a resumed run needs.
        is_writer: whether this process writes. With several processes each has to call, because shards are gathered;
            one of them writes.
        keep_every: checkpoints after every so many steps stay as well; None for none.

    Raises:
        RuntimeError: the disk refused; earlier checkpoints are untouched.
    """
    folder = run_folder / "checkpoints" / f"step_{step:08d}"
    building = folder.with_name(f".{folder.name}.building")
    weights = _gathered(model.state_dict(), is_writer)
    moments = _gathered(_moments(model, optimizer), is_writer)
    if not is_writer:
        return folder
    clear_away(run_folder)
    try:
        _write(building, step, model.teacher.backbone, processor, weights, moments | (extra or {}))
        if folder.exists():
            discard(folder)
        building.rename(folder)
        for parent in (folder.parent, run_folder):
            flush(parent)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        shutil.rmtree(building, ignore_errors=True)
        raise RuntimeError(
            f"Expected to write checkpoint {folder}; found: {error}. Earlier checkpoints are untouched: free some "
            f"space, then continue with --resume."
        ) from error
    rotate(run_folder, step, keep, keep_every)
    return folder


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, dict[str, Tensor]]:
    """Put a checkpoint into model and optimizer; returns the number of updates done and the extra tensors.

    Raises:
        ValueError: the checkpoint holds other tensors than this model.
    """
    tensors = load_file(folder / "training.safetensors")
    if adapter_config(model.teacher.backbone) is None:
        backbone = load_file(folder / "backbone" / "model.safetensors")
    else:
        student = {name: tensor for name, tensor in tensors.items() if name.startswith(_STUDENT_BACKBONE)}
        backbone = {name.removeprefix(_STUDENT_BACKBONE): t for name, t in student.items() if not is_adapter(name)}
    tensors |= {_TEACHER_BACKBONE + name: tensor for name, tensor in backbone.items()}
    expected = model.state_dict()
    weights = {name: tensors.pop(name) for name in expected if name in tensors}
    mend = "Resume with the configuration in the run's run.yaml, or start a new run with another `output`."
    refuse_other_tensors(str(folder), expected, weights, mend)
    model.load_state_dict({name: placed_like(tensor, expected[name]) for name, tensor in weights.items()})
    restore_moments(model, optimizer, tensors)
    return json.loads((folder / "state.json").read_text())["step"], tensors


def restore_moments(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Move the optimizer's state of every trained parameter from the tensors of a checkpoint into the optimizer.

    Args:
        model: a `SelfDistillation`, already sharded, if it is going to be.
        optimizer: the student's, not wrapped.
        tensors: of `training.safetensors`; those that are used are taken out.
    """
    for name, parameter in model.student.named_parameters():
        if not parameter.requires_grad:
            continue
        prefix = f"{_OPTIMIZER}{name}|"
        state = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
        optimizer.state[parameter] = {
            # A fused AdamW counts its steps on the device, on every process by itself.
            key: value.to(parameter.device) if key == "step" else placed_like(value, parameter)
            for key, value in state.items()
        }


def _write(
    folder: Path,
    step: int,
    backbone: PreTrainedModel,
    processor: BaseImageProcessor,
    weights: dict[str, Tensor],
    others: dict[str, Tensor],
) -> None:
    of_backbone = {name: weights.pop(name) for name in list(weights) if name.startswith(_TEACHER_BACKBONE)}
    published = {name.removeprefix(_TEACHER_BACKBONE): tensor for name, tensor in of_backbone.items()}
    if config := adapter_config(backbone):
        weights |= {name: tensor for name, tensor in of_backbone.items() if is_adapter(name)}
        save_adapter(folder / "backbone_adapter", published, config)
        published = merged(published, config)
    backbone.save_pretrained(folder / "backbone", state_dict=published)
    processor.save_pretrained(folder / "backbone")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in (weights | others).items()}
    save_file(tensors, folder / "training.safetensors")
    seal(folder, step)


def _moments(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state of every parameter of the student, by the parameter's name."""
    return {
        f"{_OPTIMIZER}{name}|{key}": value
        for name, parameter in model.student.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _gathered(tensors: dict[str, Tensor], is_writer: bool) -> dict[str, Tensor]:
    """Whole tensors on the host for the process that writes; none for the others, which hand over their shards."""
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if is_writer:
            found[name] = full.detach().cpu()
    return found
