"""Whole training steps of student, teacher and gram teacher, through the function that training/pretrain.py calls."""

import pytest
import torch
from accelerate import Accelerator

import training.pretrain as script
from dinox_hf.data.batches import PretrainBatch
from dinox_hf.data.crops_config import CropsConfig
from dinox_hf.model import modeling_dinov3_ct as modeling
from dinox_hf.model.checkpoint_keys import meta_to_ours
from dinox_hf.pretraining.config import GramConfig, HeadConfig, LossConfig, ModelConfig, PretrainConfig
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.schedules import StepValues
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.parity.fixtures import assert_parity, cases, find, load, with_prefix

# Three AdamW steps divide by the root of tiny second moments, which magnifies rounding (parity README: 5e-6).
WEIGHTS_AFTER_STEPS = 3e-5
# Gradients of tensors that lie far below the largest one are rounding noise.
GRADIENT_NOISE_FLOOR = 1e-3


@pytest.mark.parametrize("case", [p for p in cases("train_step") if p.id != "common"])
def test_a_training_step_matches_the_reference(case, monkeypatch):
    common = find("train_step", "common")[0]
    inputs, (_, outputs) = load(common)[0], load(case)
    if case["hyper"]["rope_dtype"] == "bf16":
        rotate_in_bfloat16(monkeypatch)
    config = config_of(common["hyper"], case["hyper"]["overrides"], inputs)
    model = model_of(config, inputs)
    optimizer = build_optimizer(
        model.student.named_parameters(),
        depth=model.student.backbone.config.num_hidden_layers,
        layerwise_decay=common["hyper"]["config_over_shipped_defaults"]["optim.layerwise_decay"],
        patch_embed_lr_multiplier=common["hyper"]["config_over_shipped_defaults"]["optim.patch_embed_lr_mult"],
        betas=(0.9, common["hyper"]["config_over_shipped_defaults"]["optim.adamw_beta2"]),
    )
    accelerator = Accelerator(cpu=True)
    batch = batch_of(inputs, with_gram_crops=case["hyper"]["overrides"].get("crops.gram_teacher_crops_size"))
    clip = common["hyper"]["config_over_shipped_defaults"]["optim.clip_grad"]

    first_gradients = catch_first_gradients(model, monkeypatch)
    for expected in case["log"]:
        values = values_of(expected, clip)
        metrics, _ = script.training_step(accelerator, model, optimizer, [batch], values)
        check_log(metrics, expected, config, model, values)
    check_tensors(model, first_gradients, outputs)


def config_of(common: dict, overrides: dict, inputs: dict) -> PretrainConfig:
    shipped = common["config_over_shipped_defaults"]
    arch = common["arch"]
    with_gram = overrides.get("gram.use_loss", False)
    return PretrainConfig(
        model=ModelConfig(
            preset="vit_tiny",
            overrides={
                "hidden_size": arch["embed_dim"],
                "num_hidden_layers": arch["depth"],
                "num_attention_heads": arch["num_heads"],
                "intermediate_size": int(arch["embed_dim"] * arch["ffn_ratio"]),
                "patch_size": shipped["student.patch_size"],
                "num_register_tokens": shipped["student.n_storage_tokens"],
                "layerscale_value": shipped["student.layerscale"],
                "layer_norm_eps": 1e-6,
                "drop_path_rate": shipped["student.drop_path_rate"],
                "pos_embed_rescale": None,
            },
            untie_local_cls_norm=shipped["student.untie_global_and_local_cls_norm"],
        ),
        crops=CropsConfig(
            global_size=shipped["crops.global_crops_size"],
            local_size=shipped["crops.local_crops_size"],
            num_local=shipped["crops.local_crops_number"],
            gram_size=overrides.get("crops.gram_teacher_crops_size"),
        ),
        dino_head=head_of(shipped, "dino"),
        ibot_head=head_of(shipped, "ibot"),
        losses=LossConfig(
            koleo_topk=overrides.get("dino.koleo_topk", 1),
            global_ignore_diagonal=overrides.get("dino.global_ignore_diagonal", True),
        ),
        gram=GramConfig(
            first_step=0 if with_gram else None,
            teacher="ema" if overrides.get("gram.ema_teacher") else "snapshot",
            tokens=overrides.get("gram.tokens_used", "all"),
            image_level=overrides.get("gram.img_level", True),
            remove_neg=overrides.get("gram.remove_neg", False),
            remove_only_teacher_neg=overrides.get("gram.remove_only_teacher_neg", False),
        ),
    )


def head_of(shipped: dict, name: str) -> HeadConfig:
    return HeadConfig(
        num_prototypes=shipped[f"{name}.head_n_prototypes"],
        hidden_dim=shipped[f"{name}.head_hidden_dim"],
        bottleneck_dim=shipped[f"{name}.head_bottleneck_dim"],
    )


def model_of(config: PretrainConfig, inputs: dict) -> SelfDistillation:
    model = SelfDistillation(config)
    model.student.load_state_dict(from_reference(with_prefix(inputs, "student/")))
    model.teacher.load_state_dict(from_reference(with_prefix(inputs, "teacher/")))
    if model.gram_teacher is not None:
        gram = from_reference(with_prefix(inputs, "gram_teacher/"))
        gram = with_prefix(gram, "backbone.")
        model.gram_teacher.load_state_dict(gram)
    return model


def from_reference(tensors: dict) -> dict:
    """Reference names of a whole network (backbone, heads, untied norm) to ours."""
    backbone = meta_to_ours(with_key_bias_masks(with_prefix(tensors, "backbone.")))
    ours = {f"backbone.{name}": tensor for name, tensor in backbone.items()}
    for name, tensor in tensors.items():
        if name.startswith("backbone.local_cls_norm."):
            ours[name.removeprefix("backbone.")] = tensor
        elif not name.startswith("backbone."):
            ours[name.replace("last_layer.", "prototypes.")] = tensor
    return ours


def batch_of(inputs: dict, with_gram_crops: int | None) -> PretrainBatch:
    def crop_major(name: str) -> torch.Tensor:
        return (inputs[f"images/{name}"].float() / 64 - 2).transpose(0, 1).flatten(0, 1)

    images = inputs["images/global"]
    return PretrainBatch(
        global_crops=crop_major("global"),
        local_crops=crop_major("local"),
        gram_crops=crop_major("gram_teacher") if with_gram_crops else None,
        masks=inputs["masks"],
        rows=torch.arange(len(images)),
    )


def values_of(expected: dict, clip: float) -> StepValues:
    return StepValues(
        lr=expected["lr"],
        last_layer_lr=expected["last_layer_lr"],
        weight_decay=expected["weight_decay"],
        max_grad_norm=clip,
        ema_momentum=expected["momentum"],
        teacher_temperature=expected["teacher_temp"],
        local_weight=expected["dino_local_loss_weight"],
        gram_weight=expected.get("gram_loss_weight", 0.0),
        refresh_gram_teacher=expected["gram_teacher_updated_after"],
    )


def check_log(
    metrics: dict, expected: dict, config: PretrainConfig, model: SelfDistillation, values: StepValues
) -> None:
    global_share, local_share = model.pair_shares(config.crops.num_local)
    found = {
        "dino_global_crops_loss": metrics["dino_global"] / global_share,
        "dino_local_crops_loss": metrics["dino_local"] / local_share / values.local_weight,
        # The reference logs the mean over the two global crops.
        "koleo_loss": metrics["koleo"] / config.losses.koleo / 2,
        "ibot_loss": metrics["ibot"],
        "total_loss": sum(metrics.get(name, 0.0) for name in ("dino_global", "dino_local", "koleo", "ibot", "gram")),
    }
    if values.gram_weight:
        found["gram_loss"] = metrics["gram"] / values.gram_weight
    for name, value in found.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-5), name
    for part, norm in expected["grad_norm_before_clip"].items():
        assert metrics[f"grad_norm/{part}"].item() == pytest.approx(norm, rel=2e-5), part


def catch_first_gradients(model: SelfDistillation, monkeypatch) -> dict:
    """Gradients of the first step after clipping: the reference clips in place, so these are the ones recorded."""
    caught: dict[str, torch.Tensor] = {}
    clip = script.clip_gradients

    def catching(modules, max_norm):
        result = clip(modules, max_norm)
        if not caught:
            caught.update({name: parameter.grad.clone() for name, parameter in model.student.named_parameters()})
        return result

    monkeypatch.setattr(script, "clip_gradients", catching)
    return caught


def check_tensors(model: SelfDistillation, gradients: dict, outputs: dict) -> None:
    expected_gradients = from_reference(with_prefix(outputs, "grad0/"))
    largest = max((tensor.abs().max().item() for tensor in expected_gradients.values()), default=0.0)
    for name, expected in expected_gradients.items():
        floor = max(expected.abs().max().item(), GRADIENT_NOISE_FLOOR * largest)
        assert_parity(gradients[name], expected, f"gradient of {name}", magnitude=floor)
    for prefix, network in (("student_after/", model.student), ("teacher_after/", model.teacher)):
        state = network.state_dict()
        for name, expected in from_reference(with_prefix(outputs, prefix)).items():
            assert_parity(state[name], expected, prefix + name, relative=WEIGHTS_AFTER_STEPS)


def with_key_bias_masks(tensors: dict) -> dict:
    """Records of gradients and later weights leave the masks out; the key third of a bias has no counterpart."""
    masks = {}
    for name in [name for name in tensors if name.endswith("attn.qkv.bias")]:
        masks[f"{name}_mask"] = torch.ones_like(tensors[name])
        masks[f"{name}_mask"].chunk(3)[1].zero_()
    return masks | tensors


def rotate_in_bfloat16(monkeypatch) -> None:
    """The reference's shipped training rotates in bfloat16; ours does not (see `rotate_patches`), the test can."""
    coordinates, periods, table = modeling.patch_coordinates, modeling.rope_periods, modeling.rope_table
    kind = torch.bfloat16

    def rotate(tokens, cos, sin):
        prefix, patches = tokens.split([tokens.shape[-2] - cos.shape[-2], cos.shape[-2]], dim=-2)
        patches = patches.to(kind)
        first, second = patches.chunk(2, dim=-1)
        rotated = patches * cos + torch.cat([-second, first], dim=-1) * sin
        return torch.cat([prefix.to(kind), rotated], dim=-2).to(tokens.dtype)

    monkeypatch.setattr(modeling, "patch_coordinates", lambda *a, **k: coordinates(*a, **(k | {"dtype": kind})))
    monkeypatch.setattr(modeling, "rope_periods", lambda *a, **k: periods(*a, **(k | {"dtype": kind})))
    monkeypatch.setattr(modeling, "rope_table", lambda c, p: table(c.to(kind), p))
    monkeypatch.setattr(modeling, "rotate_patches", rotate)
