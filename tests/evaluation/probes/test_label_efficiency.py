import json

import numpy as np
import pytest

from dinox_hf.evaluation.pages.label_efficiency_figure import draw_label_efficiency
from dinox_hf.evaluation.parts import label_efficiency_part
from dinox_hf.evaluation.probes.few_labels import SHARES
from dinox_hf.evaluation.probes.from_scratch import FromScratchSettings
from dinox_hf.evaluation.probes.label_efficiency import FROM_SCRATCH, LabelledCrops, label_efficiency
from dinox_hf.evaluation.probes.probe_suite import BACKBONE, RANDOM, SIZE

TINY = FromScratchSettings(size_px=8, widths=(2,), steps=2, batch_size=4, shift_px=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A backbone that knows the answer, networks that do not, a size that knows a little, a baseline too short."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 120)
    patient_ids = np.array([f"P{number // 2:02d}" for number in range(120)])
    crops = LabelledCrops(labels, patient_ids, rng.normal(-600, 100, (120, 8, 8)), {"of": "a test"})
    features = {
        (SIZE, "–"): [rng.normal(size=(120, 1)) + labels[:, None]],
        (BACKBONE, "cls"): [rng.normal(size=(120, 3)) + 5 * labels[:, None]],
        (RANDOM, "cls"): [rng.normal(size=(120, 3)), rng.normal(size=(120, 3))],
    }
    cache = tmp_path_factory.mktemp("cache")
    return crops, features, cache, label_efficiency(crops, features, cache, 1, num_draws=2, settings=TINY)


def test_features_that_know_the_answer_need_the_fewest_labels(made):
    record = made[3]
    curves = {curve["features"]: curve["points"] for curve in record["curves"]}
    assert curves.keys() == {SIZE, BACKBONE, RANDOM, FROM_SCRATCH}
    assert all(point["auc"] > 0.95 for point in curves[BACKBONE])
    assert 0.3 < curves[RANDOM][-1]["auc"] < 0.7
    assert [len(point["auc_by_draw"]) for point in curves[BACKBONE]] == [2] * 5
    # With all labels a probe of one network is the same in every draw; the baseline starts anew.
    assert curves[BACKBONE][-1]["sd"] == 0 < curves[FROM_SCRATCH][-1]["sd"]
    assert curves[BACKBONE][-1]["interval"][0] <= curves[BACKBONE][-1]["auc"] <= curves[BACKBONE][-1]["interval"][1]
    reached = {each["features"]: each for each in record["reached"]}
    assert reached[BACKBONE]["share"] == reached[BACKBONE]["share_beyond_interval"] == 0.01
    assert [counts["share"] for counts in record["shares"]] == list(SHARES)
    json.dumps(record, allow_nan=False)


def test_the_baseline_is_trained_once(made, monkeypatch):
    crops, features, cache, record = made
    monkeypatch.setattr("dinox_hf.evaluation.probes.label_efficiency.train_from_scratch", None)
    only_size = {(SIZE, "–"): features[SIZE, "–"]}
    again = label_efficiency(crops, only_size, cache, 1, num_draws=2, settings=TINY)
    assert again["curves"][-1] == record["curves"][-1]


@pytest.mark.long
def test_two_processes_train_the_same_baseline(made, tmp_path):
    crops, _, _, record = made
    two = label_efficiency(crops, {}, tmp_path, 2, num_draws=2, settings=TINY)
    assert two["curves"][-1] == record["curves"][-1]


def test_report_says_whether_the_claim_holds_and_what_the_controls_do(made):
    record = {"rule": "a rule", "not_measured": None} | made[3]
    report = {"label_efficiency": record, "figures": {}}
    (line,) = label_efficiency_part.LABEL_EFFICIENCY.verdict(report)
    assert "backbone (cls) reaches the" in line and "with 1 % of the training patients (2 of 48" in line
    assert "The claim of 95 % fewer labels holds here" in line and "size only with" in line
    text = label_efficiency_part.LABEL_EFFICIENCY.section(report)
    point = record["curves"][1]["points"][1]
    assert f"{point['auc']:.3f} ± {point['sd']:.3f}" in text
    assert f"5 % ({record['shares'][1]['patients']:.0f} patients" in text
    without = [each | {"share": None, "share_beyond_interval": None} for each in record["reached"]]
    (line,) = label_efficiency_part.LABEL_EFFICIENCY.verdict({"label_efficiency": record | {"reached": without}})
    assert "does not reach" in line and "does not hold" in line and "random weights (cls) never" in line


def test_the_figure_is_drawn(made, tmp_path):
    draw_label_efficiency(tmp_path / "curve.png", made[3])
    assert (tmp_path / "curve.png").stat().st_size > 10_000 and (tmp_path / "curve.svg").is_file()


def test_too_few_patients_are_not_measured_and_features_that_are_no_numbers_refused(made):
    crops, _, cache, _ = made
    reason = label_efficiency_part._not_measured(crops.labels[:60], crops.patient_ids[:60])
    assert "labels of 30 patients; at least 50 are needed" in reason
    with pytest.raises(ValueError, match="found 120 values that are NaN"):
        label_efficiency(crops, {(SIZE, "–"): [np.full((120, 1), np.nan)]}, cache, 1, num_draws=1, settings=TINY)
    with pytest.raises(ValueError, match="found 60 with label 0 and 0 with label 1"):
        one_class = LabelledCrops(np.zeros(120, dtype=int), crops.patient_ids, crops.fields_hu, crops.key)
        label_efficiency(one_class, {}, cache, 1, num_draws=1, settings=TINY)
