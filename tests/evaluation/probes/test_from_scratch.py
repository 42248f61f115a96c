import numpy as np
import pytest
import torch

from dinox_hf.evaluation.probes.from_scratch import FromScratchSettings, train_from_scratch, varied
from dinox_hf.metrics.auroc import auroc

TINY = FromScratchSettings(size_px=16, widths=(4, 8), steps=30, batch_size=16, lr=1e-2, shift_px=1)


@pytest.fixture(scope="module")
def crops():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    fields_hu = rng.normal(-800, 30, (40, 16, 16))
    fields_hu[:, 6:10, 6:10] += 500 * labels[:, None, None]
    return fields_hu, labels


def test_it_learns_from_its_rows_what_it_is_asked_about(crops):
    fields_hu, labels = crops
    asked = np.arange(20, 40)
    scores = train_from_scratch(fields_hu, labels, np.arange(20), asked, [0], TINY)
    assert auroc(labels[asked], scores) > 0.95
    wrong = np.where(np.arange(40) < 20, 1 - labels, labels)
    scores = train_from_scratch(fields_hu, wrong, np.arange(20), asked, [0], TINY)
    assert auroc(labels[asked], scores) < 0.05


def test_labels_that_are_asked_about_are_never_read_and_the_seed_decides_all(crops):
    fields_hu, labels = crops
    rows, asked = np.arange(20), np.arange(20, 40)
    torch.manual_seed(5)
    expected_next = torch.rand(1)
    torch.manual_seed(5)
    first = train_from_scratch(fields_hu, labels, rows, asked, [1, 2], TINY)
    assert torch.rand(1) == expected_next  # the caller's generator is left where it was
    changed = np.where(np.arange(40) < 20, labels, 7)
    np.testing.assert_array_equal(train_from_scratch(fields_hu, changed, rows, asked, [1, 2], TINY), first)
    assert (train_from_scratch(fields_hu, labels, rows, asked, [1, 3], TINY) != first).any()


def test_a_variation_keeps_shape_and_values():
    images = torch.randn(3, 3, 8, 8)
    for seed in range(5):
        torch.manual_seed(seed)
        changed = varied(images, 2)
        assert changed.shape == images.shape
        assert set(changed.flatten().tolist()) <= set(images.flatten().tolist())


def test_one_class_or_a_nodule_on_both_sides_is_refused(crops):
    fields_hu, labels = crops
    with pytest.raises(ValueError, match=r"found labels \[0\] and 0 nodules that are both"):
        train_from_scratch(fields_hu, labels, np.array([0, 2]), np.array([1]), [0], TINY)
    with pytest.raises(ValueError, match=r"found labels \[0, 1\] and 1 nodules that are both"):
        train_from_scratch(fields_hu, labels, np.array([0, 1]), np.array([1]), [0], TINY)
