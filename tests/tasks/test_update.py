import pytest
import torch
from accelerate import Accelerator
from torch import nn

from dinox_hf.tasks.update import update


def test_an_update_moves_the_weights_along_the_clipped_gradient():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    model = nn.ParameterList([weight])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):  # the gradient of the first must not count in the second
        before = weight.detach().clone()
        loss = 10 * (weight * torch.tensor([0.6, 0.8])).sum()
        assert update(Accelerator(cpu=True), model, optimizer, loss, max_grad_norm=1.0) == pytest.approx(loss.item())
        torch.testing.assert_close(before - weight.detach(), torch.tensor([0.6, 0.8]), atol=1e-4, rtol=0)


def test_a_loss_that_is_no_number_leaves_the_weights_alone():
    weight = nn.Parameter(torch.ones(2))
    model = nn.ParameterList([weight])
    with pytest.raises(ValueError, match=r"should be finite; found nan.*head_lr"):
        update(
            Accelerator(cpu=True),
            model,
            torch.optim.SGD([weight], lr=1.0),
            (weight * torch.nan).sum(),
            max_grad_norm=1,
        )
    assert weight.tolist() == [1, 1]
