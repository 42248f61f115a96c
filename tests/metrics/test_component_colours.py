import numpy as np

from dinox_hf.metrics.component_colours import component_colours


def test_colours_follow_the_three_widest_directions_and_ignore_an_offset():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((500, 6)) * [0.01, 9.0, 0.02, 3.0, 1.0, 0.01]
    colours = component_colours(features)
    assert colours.shape == (500, 3) and colours.min() == 0 and colours.max() == 1
    widest = [abs(np.corrcoef(colours[:, rank], features[:, column])[0, 1]) for rank, column in enumerate((1, 3, 4))]
    assert min(widest) > 0.95
    np.testing.assert_allclose(component_colours(features + 7), colours, atol=1e-9)


def test_the_sign_of_the_basis_does_not_show():
    rng = np.random.default_rng(1)
    features = rng.exponential(size=(300, 4)) * [4.0, 2.0, 1.0, 0.1]
    turned, _ = np.linalg.qr(rng.standard_normal((4, 4)))
    np.testing.assert_allclose(component_colours(features @ turned), component_colours(features), atol=1e-6)
