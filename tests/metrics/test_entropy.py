import math

import torch

from dinox_hf.metrics.entropy import entropy


def test_entropy_runs_from_zero_to_log_k():
    values = entropy(torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    torch.testing.assert_close(values, torch.tensor([0, math.log(4)]))


def test_certain_images_on_different_prototypes_use_them_evenly():
    images = torch.eye(5)
    assert entropy(images).max() == 0
    torch.testing.assert_close(entropy(images.mean(0)), torch.tensor(math.log(5)))
