import math

import pytest
import torch

from dinox_hf.metrics.entropy import entropy, marginal_entropy


def test_entropy_runs_from_zero_to_log_k():
    values = entropy(torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    torch.testing.assert_close(values, torch.tensor([0.0, math.log(4)]))


def test_certain_images_on_different_prototypes_have_a_full_marginal_entropy():
    assert marginal_entropy(torch.eye(5)).item() == pytest.approx(math.log(5))


def test_images_on_one_prototype_have_no_marginal_entropy():
    assert marginal_entropy(torch.tensor([[0.0, 1.0]] * 3)).item() == 0
