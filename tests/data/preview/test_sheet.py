"""The whole sheet: drawn for every kind of set, of the expected size, and the same every time."""

import time

import numpy as np
import pytest
from PIL import Image

from dinox_hf.data.preview.overview import SetOverview
from dinox_hf.data.preview.sheet import draw_contact_sheet
from tests.data.built_set import noisy_series, series_rows, write_built_set
from tests.data.preview.example_set import mark, nodule, write_example
from tests.test_commands import command


def test_a_set_without_nodules_gives_a_sheet_of_six_columns(tmp_path):
    overview = SetOverview(write_example(tmp_path / "set", ["P1", "P2"]))
    with Image.open(draw_contact_sheet(overview, tmp_path / "sheet.png")) as image:
        # Inches times 130: 6 x 2.4 + 0.24 by 0.95 + 2 x 2.74 + 2.75 + 0.45.
        assert image.size == (1903, 1251)
        assert np.asarray(image.convert("L")).std() > 10


def test_nodules_add_a_column_and_equal_sets_give_equal_pictures(tmp_path):
    folder = write_example(tmp_path / "set", ["P1", "P2"], [nodule("P2")], [mark("P1", 2, 3, 4, "small_nodule")])
    first, second = (draw_contact_sheet(SetOverview(folder), tmp_path / name) for name in ("a.png", "b.png"))
    with Image.open(first) as image:
        assert image.size == (2215, 1251)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("shape", [(2, 1, 1), (2, 700, 3), (9, 3, 50)])
def test_scans_of_any_shape_are_drawn(tmp_path, shape):
    rows = series_rows(noisy_series(0, shape), "P1")
    overview = SetOverview(write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}))
    assert draw_contact_sheet(overview, tmp_path / "sheet.png").is_file()


def test_scans_of_padding_only_are_drawn(tmp_path):
    rows = series_rows(np.full((2, 4, 4), -2000, dtype=np.int16), "P1", -2000)
    overview = SetOverview(write_built_set(tmp_path / "set", {"train-00000-of-00001": rows}))
    assert draw_contact_sheet(overview, tmp_path / "sheet.png").is_file()


def test_the_command_writes_beside_the_set_and_leaves_the_set_as_it_was(tmp_path, capsys):
    folder = write_example(tmp_path / "set", ["P1"], [nodule("P1")])
    before = sorted(folder.rglob("*"))
    command("dataset_scripts/preview.py")([str(folder)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "set_preview.png")
    assert sorted(folder.rglob("*")) == before


def test_another_format_than_png_is_refused(tmp_path):
    overview = SetOverview(write_example(tmp_path / "set", ["P1"]))
    with pytest.raises(ValueError, match=r"should be a PNG; found 'sheet\.jpg'"):
        draw_contact_sheet(overview, tmp_path / "sheet.jpg")


def test_a_set_of_244_000_rows_costs_little_more_than_a_small_one(tmp_path):
    def seconds(num_series: int) -> float:
        folder = tmp_path / f"set{num_series}"
        # Series of one shard, linked under many names.
        shards = {"train-00000-of-00001": series_rows(noisy_series(0, (240, 4, 4)), "P1")}
        (shard,) = (write_built_set(folder, shards) / "slices").iterdir()
        for number in range(1, num_series):
            (folder / f"slices/train-{number:05d}-of-01018.parquet").hardlink_to(shard)
        start = time.process_time()
        overview = SetOverview(folder)
        draw_contact_sheet(overview, folder / "sheet.png")
        assert overview.num_slices == 240 * num_series
        return time.process_time() - start

    a = seconds(1018)
    b = seconds(4)
    print("TT", a, b)
    assert a < 4 * b
