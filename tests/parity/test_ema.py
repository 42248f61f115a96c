"""The teacher's moving average against the reference."""

import pytest
import torch

from dinox_hf.pretraining.ema import ema_update_
from tests.parity.fixtures import assert_parity, cases, load


@pytest.mark.parametrize("is_finite", [None, torch.tensor(True)])
@pytest.mark.parametrize("case", cases("ema"))
def test_ema_matches(case, is_finite):
    inputs, outputs = load(case)
    ema_update_([inputs["teacher"]], [inputs["student"]], case["hyper"]["momentum"], is_finite)
    assert_parity(inputs["teacher"], outputs["teacher_after"], "teacher")
