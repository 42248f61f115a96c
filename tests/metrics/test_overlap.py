import numpy as np
import pytest

from dinox_hf.metrics.overlap import dice, iou


def test_two_squares_that_share_a_quarter():
    first, second = np.zeros((2, 6, 6), dtype=bool)
    first[:4, :4], second[2:, 2:] = True, True
    assert dice(first, second) == 2 * 4 / 32
    assert iou(first, second) == 4 / 28


def test_nothing_found_where_nothing_is_counts_as_right():
    empty, full = np.zeros((3, 3)), np.ones((3, 3))
    assert dice(empty, empty) == iou(empty, empty) == 1.0
    assert dice(empty, full) == iou(empty, full) == 0.0


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3, 3\)"):
        dice(np.zeros((2, 2)), np.zeros((3, 3)))
