import numpy as np
import pytest
import torch

from dinox_hf.data.intensity.noise import _STEP, _mixed, white_noise


def test_the_bits_are_those_of_splitmix64():
    # The first numbers from seed 1234567, as Vigna's reference program in C prints them.
    found = _mixed(1234567 + torch.arange(1, 4) * _STEP).tolist()
    assert [number % 2**64 for number in found] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_noise_is_standard_normal_and_white():
    noise = white_noise(torch.tensor([5]), (400, 500))[0]
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.01)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert (noise.abs() > 2).float().mean().item() == pytest.approx(0.0455, abs=0.003)
    for neighbour in (noise.roll(1, 0), noise.roll(1, 1)):
        assert np.corrcoef(noise.flatten(), neighbour.flatten())[0, 1] == pytest.approx(0, abs=0.01)


def test_an_image_of_noise_depends_on_its_seed_alone():
    together = white_noise(torch.tensor([7, 8]), (3, 16, 16))
    assert torch.equal(together[1:], white_noise(torch.tensor([8]), (3, 16, 16)))
    assert not torch.equal(together[0], together[1])
