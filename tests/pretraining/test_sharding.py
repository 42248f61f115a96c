"""One process: preparing changes nothing, and launched processes that do not find each other stop."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from dinox_hf.pretraining.sharding import at_hand, placed_like, prepare, whole


def test_without_sharding_everything_is_as_it_was():
    model, accelerator = nn.Linear(2, 3), Accelerator(cpu=True)
    prepared, _ = prepare(accelerator, model, torch.optim.AdamW(model.parameters()))
    assert prepared is model
    with at_hand(model):
        assert whole(model.weight) is model.weight
    assert torch.equal(placed_like(torch.ones(3, 2), model.weight), torch.ones(3, 2))


def test_launched_processes_that_are_alone_stop_before_they_share_a_folder(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"Expected 2 processes.*found 1.*ACCELERATE_USE_CPU=1"):
        prepare(SimpleNamespace(num_processes=1), nn.Linear(2, 3), None)
