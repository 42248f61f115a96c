"""Lets the device compute: attention by every path, a matrix product, a copy. Runs in a process of its own.

`python -m dinox_hf.doctor.work TASK…` answers each task with one line of JSON. A kernel that hangs or takes its
process along is part of what is to be found out, so the doctor (child.py) only listens.
"""

import importlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.modeling_dinov3_ct import eager_attention
from ..pretraining.precision import resolve_precision
from .facts import AttentionPath

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]  # (B, heads, T, head_size) each -> the same shape

SDPA_PATHS = {
    "math": SDPBackend.MATH,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
_CROPS_PX = (224, 96)  # the recipe's global and local crops; their 201 and 41 tokens fit no tile of a kernel evenly
_HIGHRES_PX = 512  # of the recipe's last stage
_LARGE = 8.0  # logits with a standard deviation of 64, where a kernel that sums or scales in 16 bits overflows
_SECONDS = 1.0  # of one measurement


def answer(task: str, device: str) -> dict[str, object]:
    """The result of one task; attention:PATH, choice, matmul or copy."""
    dtype = training_dtype()
    if task.startswith("attention:"):
        return asdict(probe_path(task.removeprefix("attention:"), device, dtype))
    measure = {"choice": chosen_path, "matmul": measure_matmul, "copy": measure_copy}[task]
    return {"value": measure(device, dtype)}


def training_dtype() -> torch.dtype:
    """What `precision: auto` lets attention and matrix products compute in here."""
    return torch.bfloat16 if resolve_precision("auto") == "bf16" else torch.float32


def vit_shapes(device: str) -> list[tuple[int, int, int, int]]:
    """(B, heads, T, head_size) of attention in ViT-S and ViT-g; on an accelerator also those of the last stage."""
    shapes = []
    for preset in ("vits16", "vitg16"):
        config = Dinov3CTConfig.preset(preset)
        sides = [side // config.patch_size for side in (*_CROPS_PX, *([_HIGHRES_PX] if device != "cpu" else []))]
        for side in sides:
            tokens = 1 + config.num_register_tokens + side**2
            heads = config.num_attention_heads
            shapes.append((2, heads, tokens, config.hidden_size // heads))
    return shapes


def probe_path(name: str, device: str, dtype: torch.dtype) -> AttentionPath:
    """Run one path on every shape and hold it against float32 written out."""
    attention = attention_path(name)
    try:
        ordinary = [_compared(attention, shape, 1.0, device, dtype) for shape in vit_shapes(device)]
        large = [_compared(attention, shape, _LARGE, device, dtype) for shape in vit_shapes(device)]
    except (RuntimeError, ImportError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        is_missing = isinstance(error, ImportError) or "No available kernel" in str(error) or "No viable" in str(error)
        return AttentionPath(is_available=not is_missing, reason=first_line)
    return AttentionPath(
        is_available=True,
        is_finite=all(finite for finite, _, _ in ordinary),
        is_finite_for_large_inputs=all(finite for finite, _, _ in large),
        error=max(error for _, error, _ in ordinary),
        milliseconds=1e3 * sum(seconds for _, _, seconds in ordinary),
    )


def attention_path(name: str) -> Attention:
    """The function behind a name: `eager`, a backend of SDPA, or `flash_attention_2` of the flash-attn package."""
    if name == "eager":
        return _eager
    if name == "flash_attention_2":
        return _flash_attention_2
    return partial(_sdpa, SDPA_PATHS[name])


def chosen_path(device: str, dtype: torch.dtype) -> str:
    """The kernel that SDPA picks by itself for the largest shape, with gradients."""
    query, key, value = _inputs(vit_shapes(device)[-1], 1.0, device, dtype)
    names = {backend.value: name for name, backend in SDPA_PATHS.items()}
    # torch has no public name for its own choice; this is the function that scaled_dot_product_attention asks.
    return names.get(torch._fused_sdp_choice(query, key, value), "unknown")


def measure_matmul(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a linear layer, whose weight is stored transposed as in the network."""
    side = 1024 if device == "cpu" else 8192
    x, weight = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _seconds(lambda: F.linear(x, weight), device) / 1e12


def measure_copy(device: str, _: torch.dtype) -> float:
    """GB/s within the device's memory, each byte counted as it is read and as it is written."""
    num_bytes = (64 if device == "cpu" else 512) << 20
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _seconds(lambda: target.copy_(source), device) / 1e9


def _compared(
    attention: Attention, shape: tuple[int, ...], scale: float, device: str, dtype: torch.dtype
) -> tuple[bool, float, float]:
    """(all finite, largest relative error, seconds) of output and gradients for one shape."""
    inputs = _inputs(shape, scale, device, dtype)
    gradient = _normal(shape, seed=3).to(device, dtype)
    _forward_backward(attention, inputs, gradient)  # the first call compiles
    begin = _now(device)
    found = _forward_backward(attention, inputs, gradient)
    seconds = _now(device) - begin
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    expected = _forward_backward(_eager, exact, gradient.float())
    is_finite = all(bool(tensor.isfinite().all()) for tensor in found)
    errors = [
        ((a.float() - b).norm() / b.norm().clamp_min(1e-12)).item() for a, b in zip(found, expected, strict=True)
    ]
    return is_finite, max(errors), seconds


def _forward_backward(attention: Attention, inputs: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Output and the gradients of query, key and value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells at length why a path is not available
        output = attention(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, gradient)]


def _inputs(shape: tuple[int, ...], scale: float, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Query, key and value; only query and key are scaled, since they make the logits."""
    factors = (scale, scale, 1.0)
    drawn = [factor * _normal(shape, seed) for seed, factor in enumerate(factors)]
    return [tensor.to(device, dtype).requires_grad_() for tensor in drawn]


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _eager(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scaling = query.shape[-1] ** -0.5
    return eager_attention(nn.Identity(), query, key, value, None, scaling=scaling, dropout=0.0)[0].transpose(1, 2)


def _sdpa(backend: SDPBackend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(query, key, value)


def _flash_attention_2(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    flash_attn = importlib.import_module("flash_attn")
    return flash_attn.flash_attn_func(*(tensor.transpose(1, 2) for tensor in (query, key, value))).transpose(1, 2)


def _seconds(work: Callable[[], object], device: str) -> float:
    """The shortest of the calls that fit into a second: whatever else the machine does can only lengthen one."""
    for _ in range(3):
        work()
    begin, shortest = _now(device), float("inf")
    while (before := _now(device)) - begin < _SECONDS:
        work()
        shortest = min(shortest, _now(device) - before)
    return shortest


def _now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def _answers(tasks: list[str], device: str) -> Iterator[dict[str, object]]:
    for task in tasks:
        try:
            yield {"task": task, **answer(task, device)}
        except Exception as error:  # whatever a kernel's library raises is an answer
            yield {"task": task, "broken": (str(error).strip() or type(error).__name__).splitlines()[0]}


if __name__ == "__main__":
    for line in _answers(sys.argv[1:], "cuda" if torch.cuda.is_available() else "cpu"):
        print(json.dumps(line), flush=True)
