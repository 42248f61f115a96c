import numpy as np

from dinox_hf.evaluation.maps.localisation import score_best_head, score_mean_of_heads, shifts_off_centre, summarise


def maps_and_masks(num_nodules: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Head 1 lies on the object, head 0 anywhere."""
    rng = np.random.default_rng(0)
    masks = np.zeros((num_nodules, 16, 16), dtype=bool)
    attention = rng.random((num_nodules, 2, 4, 4)).astype(np.float32)
    attention[:, 1] = 0.01
    for index, (row, column) in enumerate(rng.integers(0, 4, (num_nodules, 2))):
        masks[index, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = True
        attention[index, 1, row, column] = 1
    return attention, masks, np.array([f"P{index // 2}" for index in range(num_nodules)])


def test_the_best_head_is_found_and_beats_the_mean():
    attention, masks, patient_ids = maps_and_masks()
    best, mean = score_best_head(attention, masks, patient_ids), score_mean_of_heads(attention, masks)
    assert (best.hit == 1).all()
    assert best.auprc.mean() > mean.auprc.mean()


def test_a_nodule_is_never_scored_with_a_head_chosen_on_its_own_half():
    attention, masks, patient_ids = maps_and_masks()
    in_first_half = np.unique(patient_ids, return_inverse=True)[1] % 2 == 0
    # In the first half the heads trade places: each half now recommends the wrong head to the other.
    attention[in_first_half] = attention[in_first_half][:, ::-1]
    assert (score_best_head(attention, masks, patient_ids).hit < 1).any()


def test_shifts_stay_within_a_quarter_and_repeat():
    shifts = shifts_off_centre(200)
    assert np.abs(shifts).max() <= 0.25
    assert shifts.std() > 0.1
    np.testing.assert_array_equal(shifts, shifts_off_centre(200))


def test_a_perfect_map_is_all_above_chance():
    attention, masks, patient_ids = maps_and_masks()
    summary = summarise(score_mean_of_heads(attention[:, 1:], masks), patient_ids)
    assert summary["above_chance"] == 1
    assert summary["num_patients"] == 6
