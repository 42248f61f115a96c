"""A step on 32 slices and the same step in parts: on micro-batches, on processes. What both should agree on."""

from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

import training.pretrain as script
from dinox_hf.data.batches import PretrainBatch
from dinox_hf.data.masking import batch_masks
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.schedules import Schedule, StepValues
from dinox_hf.pretraining.self_distillation import SelfDistillation
from dinox_hf.pretraining.sharding import whole
from tests.training.tiny import TINY

NUM_SLICES = 32
NUM_LOCAL = 2
# AdamW divides a gradient by its own size; so large an epsilon keeps it from turning rounding noise into steps.
EPSILON = 1e-3
TERMS = ("dino_global", "dino_local", "ibot", "koleo", "gram")


def joint_config(*overrides: str) -> PretrainConfig:
    """Every term of the loss counts, KoLeo over the whole step, and nothing is drawn at random within the step."""
    backbone = "{patch_size: 8, drop_path_rate: 0.0, pos_embed_rescale: null, layerscale_value: 1.0}"
    settings = (f"--model.overrides={backbone}", "--losses.koleo_scope=step")
    return load_config(PretrainConfig, None, [*TINY, *settings, *overrides])


def joint_batch() -> PretrainBatch:
    """32 slices of noise; images hide 0 to 8 of 16 patches, so that parts of the batch hide different numbers."""
    generator = torch.Generator().manual_seed(5)
    return PretrainBatch(
        global_crops=torch.randn(2 * NUM_SLICES, 3, 32, 32, generator=generator),
        local_crops=torch.randn(NUM_LOCAL * NUM_SLICES, 3, 16, 16, generator=generator),
        gram_crops=torch.randn(2 * NUM_SLICES, 3, 48, 48, generator=generator),
        masks=torch.from_numpy(batch_masks(np.random.default_rng(5), 2 * NUM_SLICES, (4, 4))),
        rows=torch.arange(NUM_SLICES),
    )


def part_of(batch: PretrainBatch, first: int, count: int) -> PretrainBatch:
    """Slices first, …, first + count - 1 of a batch, all their crops."""

    def take(crops: Tensor) -> Tensor:
        return crops.unflatten(0, (-1, len(batch.rows)))[:, first : first + count].flatten(0, 1)

    crops = {name: take(getattr(batch, name)) for name in ("global_crops", "local_crops", "gram_crops", "masks")}
    return replace(batch, **crops, rows=batch.rows[first : first + count], masked_places=None)  # found anew


def joint_model(config: PretrainConfig) -> SelfDistillation:
    """Student, teacher and gram teacher that differ from each other, as in the middle of a run."""
    torch.manual_seed(1)
    model = SelfDistillation(config)
    with torch.no_grad():
        for frozen in model.frozen_modules():
            for parameter in frozen.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def joint_values(config: PretrainConfig) -> StepValues:
    return replace(Schedule(config, images_per_step=NUM_SLICES)(5), lr=1e-2, last_layer_lr=1e-2, ema_momentum=0.9)


def optimizer_of(model: SelfDistillation) -> torch.optim.Optimizer:
    depth = model.student.backbone.config.num_hidden_layers
    return build_optimizer(model.student.named_parameters(), depth=depth, layerwise_decay=0.9, eps=EPSILON)


def take_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: list[PretrainBatch],
    values: StepValues,
) -> dict[str, Tensor]:
    """One step of training/pretrain.py: its metrics by name."""
    metrics, _ = script.training_step(accelerator, model, optimizer, parts, values)
    return {name: torch.as_tensor(value, dtype=torch.float32) for name, value in metrics.items()}


def results_of(model: SelfDistillation, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """What two ways through one step are compared by: metrics, clipped gradients, weights of student and teacher."""
    found = {f"metric/{name}": value for name, value in metrics.items()}
    trained = [(name, parameter) for name, parameter in model.student.named_parameters() if parameter.requires_grad]
    found |= {f"gradient/{name}": whole(parameter.grad) for name, parameter in trained}
    return found | {f"weight/{name}": whole(tensor).clone() for name, tensor in model.state_dict().items()}


def assert_same_step(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal up to the rounding of sums in another order: metrics to 1e-5, tensors to 1e-5 of the largest of a kind."""
    assert found.keys() == expected.keys()
    largest = max(tensor.abs().max().item() for name, tensor in expected.items() if name.startswith("gradient/"))
    for name, tensor in expected.items():
        allowed = {"metric": 1e-5 * max(1.0, tensor.abs().max().item()), "gradient": 1e-5 * largest, "weight": 1e-5}
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=allowed[name.split("/")[0]], msg=name)
