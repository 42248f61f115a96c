import pytest

from dinox_hf.data.schema import CHARACTERISTICS
from dinox_hf.evaluation.cohorts.labels import ATTRIBUTE_RULES, MALIGNANCY_RULES


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ([5, 5, 5, 4], (1, 1, 1)),
        ([3, 3, 4], (None, 1, 0)),
        ([2, 3], (0, 0, 0)),
        ([3, 4], (1, 1, 1)),
        ([5], (None,) * 3),
    ],
)
def test_rules_a_b_c_differ_only_in_what_they_make_of_indeterminate(ratings, expected):
    assert tuple(rule.label(ratings) for rule in MALIGNANCY_RULES) == expected


def test_every_rule_reads_a_column_of_the_schema_and_leaves_no_overlap():
    for rule in (*MALIGNANCY_RULES, *ATTRIBUTE_RULES):
        assert rule.characteristic in CHARACTERISTICS
        assert rule.negative_max < rule.positive_min


def test_a_rule_prints_its_thresholds():
    assert "≥ 3.5, 0 if ≤ 2.5, left out between" in MALIGNANCY_RULES[0].text
