"""The fixtures themselves: none is forgotten, and the comparison would notice a difference."""

import importlib
from pathlib import Path

import pytest
import torch

from tests.parity.fixtures import CLAIMED, DEFAULT_FOLDER, assert_parity, cases, folder, index, load


@pytest.mark.skipif(folder() != DEFAULT_FOLDER, reason="DINOX_PARITY names another set")
def test_every_case_of_every_kind_is_claimed_by_a_test_module():
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"{__package__}.{path.stem}")
    assert {(case["kind"], case["case"]) for case in index(DEFAULT_FOLDER)} - CLAIMED == set()


def test_a_set_without_a_kind_skips_its_test(monkeypatch, tmp_path):
    (tmp_path / "index.json").write_text('{"cases": []}')
    monkeypatch.setenv("DINOX_PARITY", str(tmp_path))
    (parameter,) = cases("koleo_loss")
    assert parameter.marks[0].name == "skip"


def test_a_case_holds_the_shapes_that_the_index_promises():
    for case in index(DEFAULT_FOLDER):
        for side, tensors in zip(("inputs", "outputs"), load(case), strict=True):
            for name, tensor in tensors.items():
                assert list(tensor.shape) == case[side][name]["shape"], (case["kind"], case["case"], name)


@pytest.mark.parametrize("wrong", [1.0 + 3e-5, float("nan"), float("inf")])
def test_a_difference_above_the_tolerance_or_a_nan_fails(wrong):
    expected = torch.tensor([1.0, 0.1])
    assert_parity(expected * (1 + 0.5e-5), expected)
    with pytest.raises(AssertionError, match="of the largest magnitude"):
        assert_parity(torch.tensor([wrong, 0.1]), expected)
