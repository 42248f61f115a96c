"""Losses compare small differences of large sums, so they compute in float32 even inside a bf16 autocast region."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor


def outside_autocast(function: Callable) -> Callable:
    """Switch autocast off for one function whose first argument is a tensor.

    `.float()` alone does not help: inside autocast the next matrix product casts its operands back to bf16.
    """

    @wraps(function)
    def in_full_precision(first: Tensor, *args, **kwargs):
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *args, **kwargs)

    return in_full_precision
