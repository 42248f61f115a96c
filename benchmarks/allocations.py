"""What PyTorch has allocated at any moment, counted operation by operation: on a CPU too, where nobody else counts."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class AllocationMeter(TorchDispatchMode):
    """Inside, `current` is the bytes of all tensors born there and still alive, `peak` the most there ever were.

    Each storage counts once, whatever views look at it. What an operation allocates and frees again within itself is
    not seen; nor are tensors that were there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Call the operation; storages among its results that were not among its arguments are new."""
        kwargs = kwargs or {}
        for tensor in tensors_in((args, kwargs)):
            self._known.setdefault(tensor.untyped_storage(), 0)
        results = function(*args, **kwargs)
        for tensor in tensors_in(results):
            self._meet(tensor.untyped_storage())
        return results

    def reset_peak(self) -> None:
        """Forget the peak so far."""
        self.peak = self.current

    def _meet(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.current += size
        self.peak = max(self.peak, self.current)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.current -= size


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors of nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
