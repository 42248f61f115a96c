import numpy as np
import pytest

from dinox_hf.data.builder import build_dataset
from dinox_hf.data.building import ingest_report
from dinox_hf.data.leaks import check_no_leak, check_set
from tests.data.builds import write_patient
from tests.data.built_set import noisy_series, series_rows, write_built_set

SIDES = ["train", "train", "test", "test"]


def test_a_split_by_patient_passes():
    check_no_leak(SIDES, ["a", "a", "b", "c"], ["1", "2", "3", "4"])
    check_no_leak([], [])


@pytest.mark.parametrize(
    ("patients", "series", "found"),
    [
        (["a", "b", "a", "c"], ["1", "2", "1", "4"], "patient a in test and train"),
        (["a", "b", "a", "c"], ["1", "2", "3", "4"], "patient a in test and train"),
        (["x", "b", "y", "c"], ["1", "2", "1", "4"], "series 1 in test and train"),
        (["a", "b", "b", "a"], None, "patient a in test and train; patient b in test and train"),
    ],
    ids=["same series", "second series of a patient", "one series under two patient ids", "two patients"],
)
def test_each_kind_of_leak_is_found_and_named(patients, series, found):
    with pytest.raises(ValueError, match=found):
        check_no_leak(SIDES, patients, series)


def test_a_patient_in_two_of_many_folds_is_found():
    folds, patients = np.arange(50) % 5, np.array([f"P{number}" for number in range(50)])
    check_no_leak(folds, patients)
    patients[13] = "P7"
    with pytest.raises(ValueError, match="these folds; found patient P7 in 2 and 3"):
        check_no_leak(folds, patients, of="these folds")


def test_many_leaks_are_counted():
    patients = [f"P{number}" for number in range(9)]
    with pytest.raises(ValueError, match="P2 in 0 and 1; 6 more"):
        check_no_leak([0] * 9 + [1] * 9, patients * 2)


def test_series_without_a_name_are_not_one_series():
    check_no_leak(SIDES, ["a", "b", "c", "d"], ["", "", "", ""])


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="found 4, 3 and 4"):
        check_no_leak(SIDES, ["a", "b", "c"])


def rows_of(patient: str, series: str) -> list[dict]:
    return [row | {"series_id": series} for row in series_rows(noisy_series(0, (2, 16, 16)), patient)]


@pytest.mark.parametrize(
    ("second", "found"),
    [
        (rows_of("A", "1"), "patient A in test and train"),
        (rows_of("A", "2"), "patient A in test and train"),
        (rows_of("B", "1"), "series 1 in test and train"),
        (rows_of("B", "2"), None),
    ],
    ids=["same series", "second series", "second name", "no leak"],
)
def test_a_leak_between_shards_on_disk_is_found(tmp_path, second, found):
    # Two shards of train, as two jobs of an array write them; the leak is in the second.
    first = rows_of("C", "3")
    shards = {"train-00000-of-00002": first, "train-00001-of-00002": rows_of("A", "1"), "test-00000-of-00001": second}
    folder = write_built_set(tmp_path / "set", shards)
    if found is None:
        check_set(folder)
    else:
        with pytest.raises(ValueError, match=found):
            check_set(folder)


def test_a_series_of_two_patients_in_one_split_is_found(tmp_path):
    shards = {"train-00000-of-00002": rows_of("A", "1"), "train-00001-of-00002": rows_of("B", "1")}
    with pytest.raises(ValueError, match=r"any split by patient of the set .*found series 1 in A and B"):
        check_set(write_built_set(tmp_path / "set", shards))


def test_nodules_in_another_split_than_their_slices_are_found(tmp_path):
    folder = write_built_set(tmp_path / "set", {"train-00000-of-00001": rows_of("A", "1")})
    nodules = write_built_set(tmp_path / "other", {"test-00000-of-00001": rows_of("A", "1")})
    (nodules / "slices").rename(folder / "nodules")
    with pytest.raises(ValueError, match="patient A in test and train"):
        check_set(folder)


def test_jobs_of_an_array_that_split_by_series_do_not_become_a_set(tmp_path, monkeypatch):
    for number in range(2):  # two series of one patient
        write_patient(tmp_path / "raw", number, PatientID="P")
    splits = iter(["train", "test"])
    monkeypatch.setattr(ingest_report, "split_of", lambda patient_id, num_patients: next(splits))
    assert build_dataset(tmp_path / "raw", tmp_path / "out", num_shards=2, shard_index=0) is None
    with pytest.raises(ValueError, match="found patient P in test and train"):
        build_dataset(tmp_path / "raw", tmp_path / "out", num_shards=2, shard_index=1)
    assert not (tmp_path / "out" / "README.md").exists()
