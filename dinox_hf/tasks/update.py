"""One update of a head's weights, the same for every task."""

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer


def update(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, loss: Tensor, max_grad_norm: float
) -> float:
    """Change the weights by the gradient of a loss, and return its value.

    Args:
        accelerator: that prepared the model and the optimiser.
        model: whose gradients are clipped.
        optimizer: of its trainable parameters.
        loss: () of one batch.
        max_grad_norm: gradients are scaled to this norm where theirs is larger.

    Raises:
        ValueError: if the loss is no finite number; the weights are then as they were.
    """
    if not loss.isfinite():
        raise ValueError(
            f"The loss of a head should be finite; found {loss.item()}. The best head so far is saved. Lower "
            f"--training.lr and --training.head_lr, or look for slices that are not CT and features that are no "
            f"numbers."
        )
    optimizer.zero_grad()
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    return loss.item()
