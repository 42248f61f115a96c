"""What the index says of LIDC-IDRI, and how patients are chosen from it."""

import sys

import pytest

from dinox_hf.data.sources.lidc_catalogue import RemoteSeries, read_catalogue, select, sum_bytes
from tests.test_commands import command

MEGABYTE = 10**6


def series(patient: str, modality: str = "CT", num_bytes: int = 100 * MEGABYTE) -> RemoteSeries:
    return RemoteSeries(patient, "1.2", f"1.2.{patient}", modality, 10, num_bytes, "bucket", "CC BY 3.0", "10.1/x")


THREE = [
    series("LIDC-IDRI-0001"),
    series("LIDC-IDRI-0001", "SEG", MEGABYTE),
    series("LIDC-IDRI-0002"),
    series("LIDC-IDRI-0003", num_bytes=MEGABYTE),
]


@pytest.fixture(scope="module")
def catalogue() -> list[RemoteSeries]:
    pytest.importorskip("idc_index_data")
    return read_catalogue()[0]


def test_the_index_holds_the_1018_scans_of_1010_patients(catalogue):
    scans = [entry for entry in catalogue if entry.modality == "CT"]
    assert len(scans) == 1018 and len({entry.patient_id for entry in scans}) == 1010
    assert sum(entry.num_files for entry in scans) == 243_958
    assert 128e9 < sum_bytes(scans) < 129e9


def test_the_index_holds_a_seg_and_an_sr_for_each_of_the_6859_annotations(catalogue):
    for modality in ("SEG", "SR"):
        annotations = [entry for entry in catalogue if entry.modality == modality]
        assert len(annotations) == len({entry.series_id for entry in annotations}) == 6859
        assert len({entry.patient_id for entry in annotations}) == 875
    assert {entry.modality for entry in catalogue} == {"CT", "SEG", "SR"}


def test_sizes_in_the_index_are_exact(catalogue):
    first = next(entry for entry in catalogue if entry.modality == "CT")
    assert (first.patient_id, first.num_files, first.num_bytes) == ("LIDC-IDRI-0001", 133, 70_018_838)


def test_a_dry_run_counts_without_network_and_writes_nothing(catalogue, tmp_path, capsys):
    command("dataset_scripts/download_lidc_idri.py")([str(tmp_path / "raw"), "--dry-run", "--with-segmentations"])
    words = capsys.readouterr().out.split()
    at = words.index("CT")
    assert words[at + 1 : at + 4] == ["1,010", "1,018", "243,958"]
    assert "CC" in words and "doi.org/10.7937/tcia.2018.h7umfurq" in words
    assert not list(tmp_path.iterdir())


def test_segmentations_are_chosen_on_request_only():
    assert {entry.modality for entry in select(THREE).chosen} == {"CT"}
    assert {entry.modality for entry in select(THREE, with_segmentations=True).chosen} == {"CT", "SEG"}


def test_a_limit_keeps_whole_patients_in_order_and_tells_what_it_leaves_out():
    # The third would still fit beside the first, but a patient out of order would surprise.
    selection = select(THREE, max_gb=0.15)
    assert [entry.patient_id for entry in selection.chosen] == ["LIDC-IDRI-0001"]
    assert [entry.patient_id for entry in selection.left_out] == ["LIDC-IDRI-0002", "LIDC-IDRI-0003"]
    assert not select(THREE, max_gb=0.201).left_out


def test_a_number_of_patients_and_names_of_patients_narrow_the_choice():
    assert len(select(THREE, num_patients=2).chosen) == 2
    assert [entry.patient_id for entry in select(THREE, patients=["LIDC-IDRI-0003"]).chosen] == ["LIDC-IDRI-0003"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": ["LIDC-IDRI-002"]}, r"'LIDC-IDRI-002'\. Did you mean .*LIDC-IDRI-0002"),
        ({"patients": ["0003"]}, r"Did you mean LIDC-IDRI-0003\?"),
        ({"patients": ["x"]}, r"Write them like LIDC-IDRI-0001"),
        ({"max_gb": 0.05}, r"LIDC-IDRI-0001 needs 0\.100 GB"),
        ({"max_gb": 0}, r"--max-gb should be above 0"),
        ({"num_patients": 0}, r"--num-patients should be above 0"),
    ],
)
def test_a_choice_that_cannot_be_met_says_so(options, message):
    with pytest.raises(ValueError, match=message):
        select(THREE, **options)


def test_without_the_client_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "idc_index_data", None)
    with pytest.raises(RuntimeError, match=r"pip install \"dinox-hf\[download\]\""):
        read_catalogue()
