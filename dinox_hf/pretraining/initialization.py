"""What a new run starts from: the run before it, or released weights – all of them or none, and said where from.

The origin is returned as plain values for `run.yaml`, where it follows the weights from stage to stage: whoever
publishes a model needs to know whose licence came with the weights it began with.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from ..model.checkpoint_keys import load_weights, refuse_other_tensors
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.weight_files import sha256_of
from .checkpoint import latest_checkpoint, restore_moments
from .checkpoint_folders import refuse_damage, step_of
from .config import InitConfig, PretrainConfig
from .released_weights import ReleasedWeights, read_weights, refuse_other_architecture, run_yaml, stage_record
from .self_distillation import SelfDistillation

Origin = dict[str, Any]

# The recipe goes on from trained weights with 1.25e-5 to 3e-5 before the factor of the batch, and begins from random
# ones with up to 1e-3.
HIGHEST_USUAL_LR = 1e-4


def initialize(config: PretrainConfig, model: SelfDistillation, tell: Callable[[str], None] = print) -> Origin | None:
    """Give a new run its first weights; without `init` they stay as they were drawn.

    Args:
        config: the run's.
        model: on the host, not yet wrapped.
        tell: says to the user what was done.

    Returns:
        where the weights came from, for `run.yaml`; None for a random draw.

    Raises:
        ValueError: nothing lies there, or it does not fit this model down to the last tensor.
        RuntimeError: weights could not be downloaded.
    """
    if config.init.from_run is not None:
        return _continue_run(config, model, tell)
    if config.init.weights is not None:
        return _start_from(read_weights(config.init.weights), config, model, tell)
    return None


def take_moments(init: InitConfig, model: SelfDistillation, optimizer: Optimizer) -> None:
    """Where `init.take` is `everything`, give AdamW the moments it had in the run before.

    Args:
        init: what the run starts from.
        model: already sharded, if it is going to be.
        optimizer: the student's, wrapped by Accelerate or not.
    """
    if init.from_run is None or init.take != "everything":
        return
    tensors = load_file(_checkpoint_of(Path(init.from_run), init.step, "init.step") / "training.safetensors")
    restore_moments(model, getattr(optimizer, "optimizer", optimizer), tensors)


def recorded_origin(run_folder: str | Path) -> Origin | None:
    """The origin as a run wrote it down when it began: a resumed run keeps it, whatever became of its source."""
    return run_yaml(Path(run_folder)).get("lineage", {}).get("origin")


def _start_from(
    weights: ReleasedWeights, config: PretrainConfig, model: SelfDistillation, tell: Callable[[str], None]
) -> Origin:
    refuse_other_architecture(weights, config.model.backbone())
    backbones = [model.student.backbone, model.teacher.backbone]
    for backbone in [*backbones, *([] if model.gram_teacher is None else [model.gram_teacher])]:
        load_weights(backbone, weights.tensors)
    for network in (model.student, model.teacher):
        if network.local_cls_norm is not None:  # as untied norms begin: equal to the norm that they part from
            network.local_cls_norm.load_state_dict(network.backbone.norm.state_dict())
    tell(f"Backbones start from {weights.name}; the heads are drawn anew.")
    if config.lora is None and config.optimizer.lr > HIGHEST_USUAL_LR:
        tell(
            f"optimizer.lr={config.optimizer.lr} suits random weights and may wipe out these. The recipe goes on from "
            f"trained weights with 1.25e-5 to 3e-5; training/configs/vitl16_adapt.yaml is an example. With "
            f"--lora={{}} they stay as they are, and adapters learn."
        )
    return {"weights": weights.name, **weights.provenance}


def _continue_run(config: PretrainConfig, model: SelfDistillation, tell: Callable[[str], None]) -> Origin:
    init, folder = config.init, Path(config.init.from_run)
    _refuse_own_folder(folder, Path(config.output))
    checkpoint = _checkpoint_of(folder, init.step, "init.step")
    refuse_damage(checkpoint)
    _refuse_other_run(folder, config)
    _refuse_adapted_student(folder, init)
    tensors = _all_tensors(checkpoint)
    teacher = _with_prefix(tensors, "teacher.")
    student = _with_prefix(tensors, "student.") if init.take == "everything" else teacher
    for name, network, found in (("teacher", model.teacher, teacher), ("student", model.student, student)):
        mend = "Give both runs the same model, dino_head and ibot_head."
        refuse_other_tensors(f"The {name} in {checkpoint}", network.state_dict(), found, mend)
        network.load_state_dict(found)
    origin = _origin_of(folder, checkpoint, init)
    if model.gram_teacher is not None:
        anchor = _checkpoint_of(folder, init.gram_step, "init.gram_step") if init.gram_step else checkpoint
        refuse_damage(anchor)
        load_weights(model.gram_teacher, load_file(anchor / "backbone" / "model.safetensors"))
        origin["gram_teacher_step"] = step_of(anchor)
    told = "Student and teacher start as the teacher" if init.take == "teacher" else "Student and teacher go on as"
    tell(f"{told} of {folder} after {step_of(checkpoint)} steps.")
    return origin


def _origin_of(folder: Path, checkpoint: Path, init: InitConfig) -> Origin:
    return {
        "take": init.take,
        "sha256": sha256_of([checkpoint / "backbone" / "model.safetensors"]),
        **stage_record(folder, step_of(checkpoint)),
    }


def _checkpoint_of(folder: Path, step: int | None, field: str) -> Path:
    found = latest_checkpoint(folder)
    if found is None:
        raise ValueError(
            f"init.from_run should be the folder of a run with a checkpoint; found none in {folder / 'checkpoints'}. "
            f"Run the stage before first, or name its `output` with --init.from_run=…."
        )
    wanted = found if step is None else found.with_name(f"step_{step:08d}")
    if not (wanted / "state.json").is_file():
        steps = sorted(step_of(path.parent) for path in folder.glob("checkpoints/step_*/state.json"))
        raise ValueError(
            f"{field} should be a step with a checkpoint in {folder}; found {step}, and checkpoints after "
            f"{', '.join(map(str, steps))}. Choose one of these; that run's `keep_checkpoints` and `keep_every` say "
            f"which stay."
        )
    return wanted


def _refuse_own_folder(folder: Path, output: Path) -> None:
    if folder.resolve() == output.resolve():
        raise ValueError(
            f"init.from_run should be another run's folder; found this run's own `output`, {output}. "
            f"Continue a run with --resume, or write the new stage elsewhere with --output=…."
        )


def _refuse_other_run(folder: Path, config: PretrainConfig) -> None:
    """Architecture from the other run's record: some of it, such as an epsilon, leaves no trace in the weights."""
    recorded = run_yaml(folder).get("model", {})
    names = Dinov3CTConfig.preset(recorded.get("preset", config.model.preset), **recorded.get("overrides", {}))
    refuse_other_architecture(ReleasedWeights(str(folder), {}, names, {}), config.model.backbone())


def _refuse_adapted_student(folder: Path, init: InitConfig) -> None:
    if init.take == "everything" and run_yaml(folder).get("lora"):
        raise ValueError(
            f"init.take should be teacher where the run before has `lora`; found everything, and {folder} has. Its "
            f"teacher's adapters are merged into plain weights; the student's, and their moments, belong to that run "
            f"alone. Leave init.take out."
        )


def _all_tensors(checkpoint: Path) -> dict[str, Tensor]:
    backbone = load_file(checkpoint / "backbone" / "model.safetensors")
    named = {f"teacher.backbone.{name}": tensor for name, tensor in backbone.items()}
    others = load_file(checkpoint / "training.safetensors")
    # With LoRA the teacher's adapters stand there too; they are in its backbone already.
    return {name: tensor for name, tensor in others.items() if not name.startswith("teacher.backbone.")} | named


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
