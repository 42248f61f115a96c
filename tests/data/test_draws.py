import numpy as np

from dinox_hf.data.draws import between, seed


def test_draws_are_those_of_numpys_generator():
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    for low, high in ((0.05, 0.32), (-50.0, 50.0), (7.0, 7.0)):
        assert [between(ours, low, high) for _ in range(9)] == [theirs.uniform(low, high) for _ in range(9)]
        assert seed(ours) == theirs.integers(2**63)
