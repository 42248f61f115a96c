"""What smaller optimizer states save and change: python -m benchmarks.optimizer_state.

Twenty steps on noise of a ViT-S of two blocks, on one thread: bytes of state for each parameter, and how far the sum
of the updates is from that of the fused AdamW which training uses. Adafactor is torch's; AdamW with 8-bit moments is
that of torchao, measured where it is installed, eagerly, because compiling it for a CPU takes minutes.
"""

import copy
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # read when torch is imported

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel

NUM_STEPS, LR = 20, 1e-3
QUANTISED = ("codes", "scale", "qmap")  # tensors inside a moment of torchao


def main() -> None:
    """Print a table."""
    torch.manual_seed(0)
    first = Dinov3CTModel(Dinov3CTConfig.preset("vits16", num_hidden_layers=2, layerscale_value=1.0)).train()
    crops, target = torch.randn(NUM_STEPS, 4, 3, 64, 64), torch.randn(4, 21, 384)
    candidates: dict[str, Callable[..., Optimizer]] = {
        "AdamW, fused": lambda parameters: torch.optim.AdamW(parameters, lr=LR, fused=True),
        "Adafactor": lambda parameters: torch.optim.Adafactor(parameters, lr=LR),
    }
    if importlib.util.find_spec("torchao"):
        from torchao.optim import AdamW8bit

        candidates["AdamW, 8 bit"] = lambda parameters: AdamW8bit(parameters, lr=LR)
    print("| optimizer | bytes for each parameter | difference of the updates | last loss | processor time |")
    print("|---|---|---|---|---|")
    expected, expected_seconds = None, 1.0
    for name, make in candidates.items():
        update, size, loss, seconds = trained(first, make, crops, target)
        if expected is None:
            expected, expected_seconds = update, seconds
        difference = ((update - expected).norm() / expected.norm()).item()
        print(f"| {name} | {size:.2f} | {difference:.1%} | {loss:.4f} | x {seconds / expected_seconds:.1f} |")


def trained(
    first: nn.Module, make: Callable[..., Optimizer], crops: Tensor, target: Tensor
) -> tuple[Tensor, float, float, float]:
    """All updates in one vector, bytes of state for each parameter, the last loss, seconds of the processor."""
    torch.manual_seed(1)
    model, begin = copy.deepcopy(first), time.process_time()
    optimizer = make(model.parameters())
    for batch in crops:
        optimizer.zero_grad()
        loss = (model(batch).last_hidden_state - target).square().mean()
        loss.backward()
        optimizer.step()
    seconds = time.process_time() - begin
    pairs = list(zip(model.parameters(), first.parameters(), strict=True))
    update = torch.cat([(now - before).detach().flatten() for now, before in pairs])
    return update, state_bytes(optimizer) / update.numel(), loss.item(), seconds


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of all tensors of the state, those inside a quantised moment included."""
    return sum(moment_bytes(value) for state in optimizer.state.values() for value in state.values())


def moment_bytes(value: Any) -> int:
    """Bytes of one entry of an optimizer's state."""
    if hasattr(value, "codes"):
        return sum(getattr(value, name).nbytes for name in QUANTISED)
    return value.nbytes if isinstance(value, Tensor) else 0


if __name__ == "__main__":
    main()
