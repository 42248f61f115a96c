import math

import numpy as np
import pytest

from dinox_hf.metrics.entropy import entropy, marginal_entropy


def test_entropy_runs_from_zero_to_log_k():
    values = entropy(np.array([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]))
    np.testing.assert_allclose(values, [0, math.log(4)])


def test_certain_images_on_different_prototypes_have_a_full_marginal_entropy():
    assert marginal_entropy(np.eye(5)) == pytest.approx(math.log(5))


def test_images_on_one_prototype_have_no_marginal_entropy():
    assert marginal_entropy(np.array([[0.0, 1.0]] * 3)) == 0
