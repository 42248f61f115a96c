"""A dataclass of tensors that moves as a whole."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Self

import torch
from torch import Tensor


class TensorRecord:
    """Parent of dataclasses whose fields are tensors, or further records of tensors, or plain values that stay."""

    def to(self, device: torch.device | str) -> Self:
        """The record on a device; copies from pinned memory do not make the host wait."""
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The record in page-locked memory; `DataLoader` calls this where there is an accelerator."""
        return self.apply(Tensor.pin_memory)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The record with `function` done to every tensor in it."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: function(value) for name, value in values.items() if isinstance(value, Tensor)}
        changed |= {name: value.apply(function) for name, value in values.items() if isinstance(value, TensorRecord)}
        return replace(self, **changed)
