from dinox_hf.evaluation.probes.probe_suite import BACKBONE, SHUFFLED
from dinox_hf.evaluation.probes.shuffled_control import shuffled_line


def probe(question: str, auc: float, interval: list[float], features: str = SHUFFLED) -> dict:
    return {"question": question, "scores": [{"features": features, "auc": auc, "interval": interval}]}


def test_controls_around_one_half_are_no_line():
    fine = probe("texture", 0.47, [0.41, 0.53])
    good = probe("texture", 0.9, [0.8, 0.95], BACKBONE)  # a probe of true labels is meant to leave one half
    assert shuffled_line([fine, good, {"question": "margin", "scores": []}]) is None


def test_a_control_below_one_half_means_too_few_patients_or_seeds():
    line = shuffled_line([probe("texture", 0.329, [0.233, 0.423]), probe("margin", 0.5, [0.4, 0.6])])
    assert "in 1 of 2 probes:** texture 0.329 (0.233 to 0.423)" in line
    assert "too few patients or seeds" in line and "leak" not in line


def test_a_control_above_one_half_may_be_a_leak():
    assert "above 0.5 perhaps a leak of labels" in shuffled_line([probe("texture", 0.7, [0.6, 0.8])])
