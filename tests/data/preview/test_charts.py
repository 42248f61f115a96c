"""What is counted for the charts."""

import numpy as np

from dinox_hf.data.preview.charts import count_hu, sample_rows
from dinox_hf.data.preview.overview import SetOverview
from tests.data.built_set import series_rows, write_built_set


def test_hounsfield_units_are_counted_without_padding(tmp_path):
    scan = np.array([[[-2000, -2000, 0]], [[-1000, 0, 300]]], dtype=np.int16)
    other = np.array([[[-2000, 5, 5]], [[5, 5, 5]]], dtype=np.int16)
    rows = series_rows(scan, "P1", -2000) + series_rows(other, "P2")
    overview = SetOverview(write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}))
    counts, padding = count_hu(overview, np.arange(4))
    assert padding == {-2000: 2}
    found = {int(hu) - 32768: int(counts[hu]) for hu in np.flatnonzero(counts)}
    # What is padding in one series is a value like others where none was declared.
    assert found == {-2000: 1, -1000: 1, 0: 2, 5: 5, 300: 1}


def test_rows_are_sampled_over_the_whole_set_and_never_twice(tmp_path):
    rows = series_rows(np.zeros((7, 1, 1), dtype=np.int16), "P1")
    overview = SetOverview(write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}))
    assert sample_rows(overview, 3).tolist() == [0, 3, 6]
    assert sample_rows(overview).tolist() == list(range(7))
