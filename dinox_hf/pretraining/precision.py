"""Which number format a run computes in."""

import torch


def resolve_precision(precision: str) -> str:
    """`auto` becomes bf16 where an accelerator computes in it, else float32 ("no")."""
    if precision != "auto":
        return precision
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
