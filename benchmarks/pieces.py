"""Each technique of the training step against its usual form, in turns, with the largest difference beside the ratio.

    python -m benchmarks.pieces [NAME ...] [--prototypes 65536] [--batch 4] [--rounds 9] [--threads 1] [--device cuda]
                                [--shares]

ViT-S/16 on the recipe's crops, float32; both sides start from the same tensors. The usual forms stand here and in
stock_step.py. Where there is a way back it counts too. The largest difference is that of results and gradients, as a
share of the largest number of its tensor. Seconds on a CPU are those of this process, on all its threads.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from benchmarks import stock_step
from benchmarks.operations import shares
from benchmarks.rounds import begin, in_turns, ratio, seconds_of, step_options
from dinox_hf.data.masking import batch_masks
from dinox_hf.losses.dino import dino_loss
from dinox_hf.losses.sinkhorn import sinkhorn_knopp
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.pretraining.ema import ema_update_
from dinox_hf.pretraining.optimizer import build_optimizer, parameter_groups, set_step_values
from dinox_hf.pretraining.projection_head import ProjectionHead
from dinox_hf.pretraining.self_distillation import patches_at

DEPTH = 12


@dataclass
class Piece:
    """Two ways to the same numbers; each call returns the tensors to compare."""

    what: str
    ours: Callable[[], list[Tensor]]
    usual: Callable[[], list[Tensor]]
    prepare: Callable[[], object] = lambda: None  # restores what is worked on in place; not timed


def main() -> None:
    """One line for each piece."""
    options = step_options(__doc__, prototypes=65536, batch=4, rounds=9)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PIECES)} [all but compile]")
    options.add_argument("--shares", action="store_true", help="say which operations take the time of a CPU")
    chosen = options.parse_args()
    device = begin(chosen)
    for name in chosen.names or [name for name in PIECES if name != "compile"]:
        torch.manual_seed(0)
        with torch.device(device):
            piece = PIECES[name](chosen.batch, chosen.prototypes)
        print(f"{name}: {measured(piece, chosen.rounds, device)}", flush=True)
        for side in (piece.ours, piece.usual) if chosen.shares else ():
            piece.prepare()
            print(f"  {'ours' if side is piece.ours else 'usual'}: {shares(side)}", flush=True)


def measured(piece: Piece, num_rounds: int, device: torch.device) -> str:
    """Ratio, time and largest difference in words."""
    piece.prepare()
    apart = max(
        float((one - other).abs().max() / other.abs().max().clamp(min=1e-30))
        for one, other in zip(piece.ours(), piece.usual(), strict=True)
    )
    seconds = in_turns({"ours": piece.ours, "usual": piece.usual}, num_rounds, device, piece.prepare)
    middle = 1e3 * float(np.median(seconds["ours"]))
    return (
        f"{piece.what}: {ratio(seconds['usual'], seconds['ours'])} times as long as {middle:.1f} ms, "
        f"largest difference {apart:.0e}"
    )


def with_gradients(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, of)]


def backbone(**overrides: object) -> tuple[Dinov3CTModel, list[nn.Parameter]]:
    """A network in which every block counts, and the parameters that get a gradient without masks."""
    model = Dinov3CTModel(Dinov3CTConfig.preset("vits16", layerscale_value=1.0, pos_embed_rescale=None, **overrides))
    return model.train(), [parameter for name, parameter in model.named_parameters() if "mask_token" not in name]


def along_direction(model: Dinov3CTModel, crops: list[Tensor]) -> Tensor:
    """A loss that moves: the length of a normed CLS token, its sum of squares, is the same whatever the weights."""
    direction = torch.linspace(-1, 1, model.config.hidden_size, device=crops[0].device)
    return sum((model(crop).pooler_output @ direction).sum() for crop in crops)


def calls(batch: int, _: int) -> Piece:
    model, parameters = backbone(num_hidden_layers=4)
    crops = [torch.randn(2 * batch, 3, 224, 224), torch.randn(8 * batch, 3, 96, 96)]
    one_by_one = [crop for both in crops for crop in both.split(batch)]

    def run(crops: list[Tensor]) -> list[Tensor]:
        return with_gradients(along_direction(model, crops), parameters)

    return Piece("4 blocks called once per crop, not once per resolution", lambda: run(crops), lambda: run(one_by_one))


def masked_rows(batch: int, prototypes: int) -> Piece:
    head = ProjectionHead(384, 2048, 256, prototypes)
    patches = torch.randn(2 * batch, 196, 384, requires_grad=True)
    masks = torch.from_numpy(batch_masks(np.random.default_rng(0), 2 * batch, (14, 14))).to(patches.device)
    places = masks.flatten().nonzero().squeeze(1)
    wanted = [patches, *head.parameters()]
    return Piece(
        f"iBOT head on all {masks.numel()} patches, not on the {len(places)} masked ones",
        lambda: with_gradients(head(patches_at(places, patches)).square().mean(), wanted),
        lambda: with_gradients(head(patches)[masks].square().mean(), wanted),
    )


def sinkhorn(batch: int, prototypes: int) -> Piece:
    logits = 0.1 * torch.randn(30 * batch, prototypes)  # about as many patches are masked
    in_place = torch.empty_like(logits)  # the teacher's logits, which a step needs no more
    return Piece(
        f"Sinkhorn of {len(logits):,} rows dividing the matrix, not scaling vectors",
        lambda: [sinkhorn_knopp(in_place, 0.07, out=in_place)],
        lambda: [stock_step.sinkhorn(logits, 0.07)],
        prepare=lambda: in_place.copy_(logits),
    )


def log_softmax(batch: int, prototypes: int) -> Piece:
    student = (0.3 * torch.randn(10, batch, prototypes)).requires_grad_()
    teacher = torch.randn(2, batch, prototypes).softmax(-1)

    def ours() -> list[Tensor]:
        global_loss = dino_loss(student[:2], teacher, 0.1, ignore_diagonal=True)
        return with_gradients((2 * global_loss + 16 * dino_loss(student[2:], teacher, 0.1)) / 18, [student])

    return Piece(
        "a log-softmax for each pair of crops, not for each crop",
        ours,
        lambda: with_gradients(stock_step.dino(student.unbind(), teacher.unbind(), 0.1), [student]),
    )


def depth(batch: int, _: int) -> Piece:
    model, _ = backbone(num_hidden_layers=1, drop_path_rate=0.3)
    (layer,) = model.model.layer
    tokens = torch.randn(8 * batch, 41, 384, requires_grad=True)
    kept = layer.draw_kept(tokens), layer.draw_kept(tokens)
    factors = [torch.zeros(len(tokens), 1, 1).index_fill(0, rows, len(tokens) / len(rows)) for rows in kept]
    wanted = [tokens, *layer.parameters()]

    def zeroed() -> Tensor:
        middle = tokens + factors[0] * layer.layer_scale1(layer.attention(layer.norm1(tokens))[0])
        return middle + factors[1] * layer.layer_scale2(layer.mlp(layer.norm2(middle)))

    return Piece(
        "a block at drop path 0.3 zeroing crops, not leaving them out",
        lambda: with_gradients(layer(tokens, kept=kept).square().mean(), wanted),
        lambda: with_gradients(zeroed().square().mean(), wanted),
    )


def student(prototypes: int) -> nn.ModuleList:
    return nn.ModuleList([backbone()[0], *(ProjectionHead(384, 2048, 256, prototypes) for _ in range(2))])


def optimizer(_: int, prototypes: int) -> Piece:
    ours = student(prototypes)
    usual = deepcopy(ours)
    for one, other in zip(ours.parameters(), usual.parameters(), strict=True):
        one.grad = torch.randn_like(one)
        other.grad = one.grad.clone()
    fused = build_optimizer(ours.named_parameters(), depth=DEPTH)
    default = AdamW(parameter_groups(usual.named_parameters(), depth=DEPTH), lr=0.0)
    for each in (fused, default):
        set_step_values(each, lr=1e-4, weight_decay=0.04)

    def step(taken_by: Optimizer, network: nn.Module) -> list[Tensor]:
        taken_by.step()
        return [parameter.detach() for parameter in network.parameters()]

    return Piece("torch's default AdamW, not fused", lambda: step(fused, ours), lambda: step(default, usual))


def ema(_: int, prototypes: int) -> Piece:
    source, ours = student(prototypes), student(prototypes).requires_grad_(False)
    usual, is_finite = deepcopy(ours), torch.tensor(True)

    def at_once() -> list[Tensor]:
        ema_update_(ours.parameters(), source.parameters(), 0.99, is_finite)
        return list(ours.parameters())

    def one_by_one() -> list[Tensor]:
        stock_step.ema(usual, source, 0.99)
        return list(usual.parameters())

    return Piece("EMA parameter by parameter, not in one call", at_once, one_by_one)


def compiled(batch: int, _: int) -> Piece:
    """Takes a compiler, and minutes on a busy CPU; says on its own line how long the first steps take."""
    eager, parameters = backbone(num_hidden_layers=3, drop_path_rate=0.3)
    fast = deepcopy(eager)
    for layer in fast.model.layer:
        layer.compile()
    crops = [torch.randn(2 * batch, 3, 224, 224), torch.randn(8 * batch, 3, 96, 96)]

    def run(model: Dinov3CTModel) -> list[Tensor]:
        torch.manual_seed(1)  # of stochastic depth
        parameters = [parameter for name, parameter in model.named_parameters() if "mask_token" not in name]
        return with_gradients(along_direction(model, crops), parameters)

    first = sum(seconds_of(lambda: run(fast), parameters[0].device) for _ in range(2))
    print(f"compile: the first two passes take {first:.0f} s, beside the compiler in processes of its own")
    return Piece("3 blocks at drop path 0.3, not compiled", lambda: run(fast), lambda: run(eager))


PIECES = {
    "calls": calls,
    "masked_rows": masked_rows,
    "sinkhorn": sinkhorn,
    "log_softmax": log_softmax,
    "depth": depth,
    "optimizer": optimizer,
    "ema": ema,
    "compile": compiled,
}


if __name__ == "__main__":
    main()
