"""Cross-entropy a few rows at a time: the same numbers as all at once, and never a second matrix of logits."""

import pytest
import torch

from benchmarks.allocations import AllocationMeter
from dinox_hf.losses import cross_entropy as module
from dinox_hf.losses.cross_entropy import cross_entropy

PAIRS = ((False, True), (True, False), (True, True), (False, False))


def all_at_once(logits, targets, temperature, pairs):
    log_probs = (logits.float() / temperature).log_softmax(-1)
    pairwise = -torch.einsum("sbk,tbk->stb", log_probs, targets)
    return (pairwise * torch.tensor(pairs)[..., None]).sum(1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
@pytest.mark.parametrize("at_once", [1, 40, 2**22])
def test_values_and_gradients_are_those_of_autograd_however_many_rows_are_taken(
    dtype, tolerance, at_once, monkeypatch
):
    monkeypatch.setattr(module, "_MOST_NUMBERS", at_once)
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(2, 5, 16, generator=generator).softmax(-1)
    targets[:, 3] = 0  # nothing is asked of this image
    logits = torch.randn(4, 5, 16, generator=generator).to(dtype)
    factors = torch.rand(4, 5, generator=generator)
    found, gradients = [], []
    for loss in (all_at_once, cross_entropy):
        leaf = logits.clone().requires_grad_()
        found.append(loss(leaf, targets, 0.1, PAIRS))
        (gradient,) = torch.autograd.grad((found[-1] * factors).sum(), leaf)
        gradients.append(gradient)
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
    assert gradients[1].dtype == dtype
    torch.testing.assert_close(gradients[1], gradients[0], rtol=tolerance, atol=tolerance)


def test_nothing_but_the_gradient_has_the_size_of_the_logits(monkeypatch):
    monkeypatch.setattr(module, "_MOST_NUMBERS", 2 * 1000)  # two rows
    logits = torch.randn(3, 50, 1000, requires_grad=True)
    targets = torch.randn(2, 50, 1000).softmax(-1)
    with AllocationMeter() as meter:
        loss = cross_entropy(logits, targets, 0.1, ((True, True),) * 3).sum()
        assert meter.peak < 0.1 * logits.nbytes
        loss.backward()
    assert logits.nbytes < meter.peak < 1.1 * logits.nbytes


def test_the_meter_sees_what_plain_autograd_keeps_and_makes():
    """The control: log-softmax kept, and two more of its size on the way back."""
    logits, targets = torch.randn(1, 50, 1000, requires_grad=True), torch.randn(1, 50, 1000).softmax(-1)
    with AllocationMeter() as meter:
        loss = all_at_once(logits, targets, 0.1, ((True,),)).sum()
        assert logits.nbytes < meter.current < 1.1 * logits.nbytes
        loss.backward()
    assert meter.peak > 2.9 * logits.nbytes
