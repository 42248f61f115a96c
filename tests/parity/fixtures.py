"""Reads the parity fixtures: the cases of a kind, the tensors of a case, and the tolerance that all of them share.

A parity test is written once and driven by `index.json`:

    @pytest.mark.parametrize("case", cases("koleo_loss"))
    def test_koleo_loss_matches_the_reference(case):
        inputs, outputs = load(case)
        assert_parity(koleo_loss(inputs["x"], topk=case["hyper"]["topk"]), outputs["loss"])

Names and sizes come from the fixture, never from the test, so that `DINOX_PARITY` can name another set.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

DEFAULT_FOLDER = Path(__file__).parent / "data"
RELATIVE_TOLERANCE = 1e-5

Case = dict[str, Any]

# (kind, case) of every case that some test module has asked for; see test_fixtures.py.
CLAIMED: set[tuple[str, str]] = set()


def folder() -> Path:
    """Return the folder of fixtures: the one named by DINOX_PARITY, else the one beside this file."""
    return Path(os.environ.get("DINOX_PARITY") or DEFAULT_FOLDER)


@cache
def index(path: Path) -> list[Case]:
    """Return every case listed in the folder's `index.json`."""
    return json.loads((path / "index.json").read_text())["cases"]


def find(kind: str, prefix: str = "", hyper: str | None = None) -> list[Case]:
    """Return the cases of a kind whose name starts with `prefix` and which have the hyper-parameter `hyper`."""
    return [
        case
        for case in index(folder())
        if case["kind"] == kind
        and case["case"].startswith(prefix)
        and (hyper is None or hyper in case.get("hyper", {}))
    ]


def cases(kind: str, prefix: str = "", hyper: str | None = None) -> list:
    """Return what `pytest.mark.parametrize("case", …)` takes; a set without such a case gives one skipped test."""
    found = find(kind, prefix, hyper)
    if not found:
        wanted = f"{kind}/{prefix}*" + (f" with {hyper}" if hyper else "")
        skip = pytest.mark.skip(reason=f"{folder()} holds no case {wanted}")
        return [pytest.param(None, id=f"no-{kind}", marks=skip)]
    CLAIMED.update((kind, case["case"]) for case in found)
    return [pytest.param(case, id=case["case"]) for case in found]


def load(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return (inputs, outputs) of a case as fresh tensors; both are empty for a case that holds only a table."""
    if "file" not in case:
        return {}, {}
    tensors = load_file(folder() / case["file"])
    return tuple({name: tensors[entry["key"]] for name, entry in case[side].items()} for side in ("inputs", "outputs"))


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name starts with `prefix`, without it: "state/" gives a state dict."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_parity(
    actual: Tensor,
    expected: Tensor,
    name: str = "",
    *,
    relative: float = RELATIVE_TOLERANCE,
    magnitude: float | None = None,
) -> None:
    """Compare two tensors: equal shapes, and no difference above `relative` x the largest expected magnitude.

    `magnitude` replaces that largest magnitude where the expected tensor is only rounding noise around zero.
    """
    assert actual.shape == expected.shape, f"{name}: expected {tuple(expected.shape)}, found {tuple(actual.shape)}"
    if expected.numel() == 0:
        return
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = expected.abs().max().item() if magnitude is None else magnitude
    difference = (actual - expected).abs().max().item()
    # Written so that a NaN difference fails too. The floor serves expected tensors that are exactly zero.
    assert difference <= max(relative * scale, 1e-12), (
        f"{name}: differs by {difference:.3g}, {difference / max(scale, 1e-12):.3g} of the largest magnitude "
        f"{scale:.3g}; allowed is {relative:g}"
    )


def leaf(tensor: Tensor) -> Tensor:
    """Return a copy that collects gradients."""
    return tensor.clone().requires_grad_(True)
