import numpy as np
import pytest

from dinox_hf.evaluation.backbones.features import (
    attention_and_tokens,
    attention_maps,
    load_backbone,
    patch_tokens,
    random_twin,
)
from dinox_hf.evaluation.cohorts.nodule_sources import open_source
from dinox_hf.evaluation.maps import dense_maps
from dinox_hf.evaluation.maps.attention import BEST, COMPONENT, MEAN, OTHERS, OWN, attention_record, look, scales
from dinox_hf.evaluation.maps.dense_maps import field_maps
from dinox_hf.evaluation.maps.localisation import halves, non_negative, patch_masks, score_signed

from ..conftest import write_run

SIDE, WIDTH, NUM = 4, 6, 12


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, tiny_set):
    run = write_run(tmp_path_factory.mktemp("dense") / "run", tiny_set)
    return load_backbone(run / "checkpoints" / "step_00000020" / "backbone")


@pytest.fixture
def planted(monkeypatch):
    """A network whose tokens say where the nodule is: along the first axis, which varies most, and a direction."""
    rng = np.random.default_rng(0)
    masks = np.zeros((NUM, 16, 16), dtype=bool)
    tokens = rng.normal(0, 0.1, (NUM, SIDE, SIDE, WIDTH))
    for index, (row, column) in enumerate(rng.integers(0, SIDE, (NUM, 2))):
        masks[index, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = True
        tokens[index, row, column, 0] -= 3  # negative: the sign of a component must be found
    attention = np.ones((NUM, 2, SIDE, SIDE))
    # The index of a field stands in its first pixel.
    monkeypatch.setattr(dense_maps, "patch_tokens", lambda _, fields, mm: tokens[fields[:, 0, 0, 0].astype(int)])
    monkeypatch.setattr(
        dense_maps,
        "attention_and_tokens",
        lambda _, fields, mm: tuple(each[fields[:, 0, 0, 0].astype(int)] for each in (attention, tokens)),
    )
    fields_hu = np.zeros((NUM, 1, 16, 16))
    fields_hu[:, 0, 0, 0] = np.arange(NUM)
    return tokens, (None, fields_hu, np.ones((NUM, 2)), masks, np.array([f"P{index // 2}" for index in range(NUM)]))


def test_similarity_and_component_find_what_tokens_say(planted):
    maps = field_maps(*planted[1])
    for name in ("own", "others", "component"):
        assert (score_signed(getattr(maps, name), planted[1][3]).hit == 1).all(), name


def test_no_nodule_and_no_half_of_its_own_has_a_part_in_the_map_it_is_scored_with(planted):
    tokens, arguments = planted
    first, *others = np.flatnonzero(halves(arguments[4]) == 1)
    before = field_maps(*arguments)
    tokens[others] += np.random.default_rng(1).normal(0, 1, WIDTH)
    own_half_changed = field_maps(*arguments)
    tokens[halves(arguments[4]) == 0] = np.random.default_rng(2).normal(0, 1, WIDTH)
    other_half_changed = field_maps(*arguments)
    for name in ("others", "component"):
        maps = [getattr(each, name)[first] for each in (before, own_half_changed, other_half_changed)]
        np.testing.assert_array_equal(maps[0], maps[1])
        assert not np.allclose(maps[1], maps[2])


def test_one_patient_gets_only_what_needs_no_other(planted):
    *arguments, patient_ids = planted[1]
    maps = field_maps(*arguments, np.full(len(patient_ids), "P0"))
    assert maps.others is None and maps.component is None
    assert maps.own.shape == (NUM, SIDE, SIDE)


def test_a_nodule_smaller_than_a_patch_still_has_one():
    masks = np.zeros((1, 16, 16), dtype=bool)
    masks[0, 5, 6:8] = True
    assert patch_masks(masks, 4).sum() == 1
    assert patch_masks(masks, 4)[0, 1, 1]


def test_a_flat_map_is_blind_heat_and_others_begin_at_zero():
    heat = non_negative(np.array([[[2.0, 2.0]], [[-1.0, 3.0]]]))
    np.testing.assert_array_equal(heat, [[[1, 1]], [[0, 4]]])


def test_one_pass_gives_what_two_give(backbone):
    fields_hu = np.random.default_rng(0).normal(-700, 200, (3, 1, 24, 24)).astype(np.float32)
    attention, tokens = attention_and_tokens(backbone, fields_hu, np.ones((3, 2)))
    np.testing.assert_array_equal(attention, attention_maps(backbone, fields_hu, np.ones((3, 2))))
    np.testing.assert_allclose(tokens, patch_tokens(backbone, fields_hu, np.ones((3, 2))), atol=1e-6)


def test_doubled_resolution_shows_the_same_millimetres_in_four_times_the_patches(backbone, tiny_set):
    source = open_source(tiny_set)
    (native, mm, size), (doubled, same_mm, twice), _ = scales(24.0, 24)
    assert (mm, same_mm, size, twice) == (24.0, 24.0, 24, 48)
    fields = [
        look(backbone, [random_twin(backbone, 0)], source, mm, size_px, name)
        for name, size_px in ((native, size), (doubled, twice))
    ]
    assert [field.trained.attention.shape[2:] for field in fields] == [(3, 3), (6, 6)]
    # The same square of tissue: the nodule covers the same share of it.
    assert fields[0].masks.mean() == pytest.approx(fields[1].masks.mean(), rel=0.15)
    record = attention_record(fields[1], source.table)
    for name in (MEAN, BEST, OTHERS, COMPONENT, OWN):
        for network in ("backbone", "random weights"):
            scores = record["maps"][f"{network}, {name}"]
            assert scores["num_nodules"] == 24 and 0 <= scores["dice"] <= 1
    gain = next(gain for gain in record["gains"] if gain["map"] == OTHERS)
    both = [record["maps"][f"{network}, {OTHERS}"]["auprc"] for network in ("backbone", "random weights")]
    assert gain["auprc_gain"] == pytest.approx(both[0] - both[1])
    assert sum(s["maps"]["centre prior"]["num_nodules"] for s in record["by_diameter"]) == 24
