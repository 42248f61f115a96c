"""RoPE tables and rotation reproduce the reference, in float32 and – what its training runs in – bfloat16."""

import pytest
import torch

from dinox_hf.model.modeling_dinov3_ct import (
    augment_coordinates,
    patch_coordinates,
    rope_periods,
    rope_table,
    rotate_patches,
)
from tests.parity.fixtures import assert_parity, cases, load


def table_of(case, inputs):
    """The table that a case describes, with the augmentation it was given if any."""
    hyper = case["hyper"]
    dtype = getattr(torch, hyper.get("dtype", "float32"))
    period_range = None if hyper["base"] is not None else (hyper["min_period"], hyper["max_period"])
    periods = rope_periods(hyper["head_dim"], hyper["base"], period_range, dtype)
    coordinates = patch_coordinates((hyper["H"], hyper["W"]), hyper.get("normalize_coords", "separate"), dtype)
    if {"shift_hw", "jitter_hw", "rescale"} & inputs.keys():
        shift = inputs.get("shift_hw", torch.zeros(2))[None]
        jitter = inputs.get("jitter_hw", torch.ones(2))[None]
        rescale = inputs.get("rescale", torch.ones(1))[None]
        coordinates = augment_coordinates(coordinates, shift, jitter, rescale)[0]
    return periods, *rope_table(coordinates, periods)


@pytest.mark.parametrize("case", cases("rope"))
def test_rope_matches_the_reference(case):
    inputs, outputs = load(case)
    periods, cos, sin = table_of(case, inputs)
    found = {"periods": periods, "cos": cos, "sin": sin}
    found |= {f"{name}_rot": rotate_patches(inputs[name], cos, sin) for name in ("q", "k") if name in inputs}
    for name, expected in outputs.items():
        assert found[name].dtype == expected.dtype
        assert_parity(found[name], expected, name)
