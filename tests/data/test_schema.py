import numpy as np
import pyarrow.parquet as pq

from dinox_hf.data.schema import NODULE_FEATURES, nested_list, nodule_table, write_slices
from dinox_hf.data.volume import Volume
from tests.data.scans import sphere_hu


def test_a_nested_list_gives_the_array_back():
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    assert nested_list(array).to_pylist() == array.tolist()
    assert nested_list(array[:, 1:]).to_pylist() == array[:, 1:].tolist()


def test_slices_come_back_from_parquet_as_they_were(tmp_path):
    voxels = np.random.default_rng(0).integers(-32768, 32767, (11, 6, 5)).astype(np.int16)
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    volume = Volume(voxels, 2.5 * np.arange(11), affine, tuple("abcdefghijk"), "s", "p", "ct", None)
    write_slices(volume, tmp_path / "a.parquet")
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    np.testing.assert_array_equal([row["image"] for row in rows], voxels)
    assert [row["slice_index"] for row in rows] == list(range(11))
    assert rows[10] | {"image": 0} == {
        "image": 0,
        "patient_id": "p",
        "series_id": "s",
        "slice_uid": "k",
        "slice_index": 10,
        "num_slices": 11,
        "z_mm": 25.0,
        "spacing_mm": [2.5, 0.8, 0.7],
        "padding_hu": None,
        "modality": "ct",
    }


def test_pixels_are_stored_as_differences(tmp_path):
    volume = Volume(sphere_hu(), np.arange(6.0), np.eye(4), (), "s", "p", "ct", -2048)
    write_slices(volume, tmp_path / "a.parquet")
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    assert column.compression == "ZSTD" and "DELTA_BINARY_PACKED" in column.encodings


def test_a_table_of_no_nodules_has_all_columns():
    assert nodule_table([]).column_names == list(NODULE_FEATURES)
