"""Downloads with the real client from a bucket on this machine: resumed, checked, honest about what did not come."""

import subprocess
import sys
import time
from collections import namedtuple

import pytest

from dinox_hf.console import run_command
from dinox_hf.data.sources import lidc_download
from dinox_hf.data.sources.lidc_catalogue import read_catalogue, select
from dinox_hf.data.sources.lidc_download import download, find_missing
from tests.data.sources.local_bucket import BUCKET, LocalBucket, serve, write_index
from tests.test_commands import command

idc_index = pytest.importorskip("idc_index")
idc_index_data = pytest.importorskip("idc_index_data")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """Two patients; the first has a nodule, and a segmentation that is not LIDC's."""
    bucket = LocalBucket()
    rows = [
        bucket.add_series("LIDC-IDRI-0001", "CT", 1, 3),
        bucket.add_series("LIDC-IDRI-0001", "SEG", 1, 1, "dicom_lidc_idri_nodules"),
        bucket.add_series("LIDC-IDRI-0001", "SR", 1, 1, "dicom_lidc_idri_nodules"),
        bucket.add_series("LIDC-IDRI-0001", "SEG", 2, 1, "qin_lungct_seg"),
        bucket.add_series("LIDC-IDRI-0001", "DX", 1, 2),
        bucket.add_series("LIDC-IDRI-0002", "CT", 1, 4),
        bucket.add_series("LIDC-IDRI-0003", "CT", 1, 2) | {"collection_id": "another"},
    ]
    index = write_index(tmp_path / "index.parquet", rows)
    monkeypatch.setattr(idc_index_data, "IDC_INDEX_PARQUET_FILEPATH", index)
    with serve(bucket):
        monkeypatch.setattr(idc_index.index, "aws_endpoint_url", bucket.endpoint)
        yield bucket


def wanted(**options):
    return select(read_catalogue()[0], **options).chosen


def contents(out):
    return sorted(path.read_bytes() for path in out.rglob("*.dcm"))


def test_what_was_chosen_lies_in_the_layout_of_the_client(bucket, tmp_path):
    download(wanted(with_segmentations=True), tmp_path / "raw")
    prefixes = tuple(f"uuid-LIDC-IDRI-{name}/" for name in ("0001-CT-1", "0001-SEG-1", "0001-SR-1", "0002-CT-1"))
    chosen = [content for key, content in bucket.objects.items() if key.startswith(prefixes)]
    assert contents(tmp_path / "raw") == sorted(chosen)
    assert (tmp_path / "raw/lidc_idri/LIDC-IDRI-0002/1.0002/CT_1.0002.CT.1/3.dcm").is_file()


def test_a_finished_download_asks_for_nothing_again(bucket, tmp_path, monkeypatch):
    download(wanted(), tmp_path / "raw")
    bucket.requests.clear()
    monkeypatch.setattr(idc_index.index, "aws_endpoint_url", "http://127.0.0.1:9")
    download(wanted(), tmp_path / "raw")
    assert not bucket.requests


def test_a_resumed_download_fetches_only_the_files_that_are_missing_or_cut(bucket, tmp_path):
    download(wanted(), tmp_path / "raw")
    folder = tmp_path / "raw/lidc_idri/LIDC-IDRI-0002/1.0002/CT_1.0002.CT.1"
    (folder / "1.dcm").unlink()
    (folder / "2.dcm").write_bytes(b"cut")
    bucket.requests.clear()
    download(wanted(), tmp_path / "raw")
    assert bucket.fetched() == [f"uuid-LIDC-IDRI-0002-CT-1/{index}.dcm" for index in (1, 2)]
    assert not find_missing(wanted(), tmp_path / "raw")


def test_the_fragments_of_a_killed_download_do_not_stay(bucket, tmp_path):
    series = wanted(patients=["LIDC-IDRI-0001"])
    folder = series[0].folder(tmp_path / "raw")
    folder.mkdir(parents=True)
    kill_s5cmd_halfway(bucket, folder)
    assert list(folder.glob("*.dcm?*")), "the client no longer leaves fragments: remove_fragments may go"
    download(series, tmp_path / "raw")
    assert sorted(path.name for path in folder.iterdir()) == ["0.dcm", "1.dcm", "2.dcm"]


def kill_s5cmd_halfway(bucket, folder):
    """Serve the beginning of each file, then kill the client's helper."""
    bucket.may_finish.clear()
    source = f"s3://{BUCKET}/uuid-LIDC-IDRI-0001-CT-1/*"
    arguments = ["--no-sign-request", "--endpoint-url", bucket.endpoint, "cp", source, f"{folder}/"]
    process = subprocess.Popen([idc_index.IDCClient().s5cmdPath, *arguments])
    until = time.monotonic() + 20
    while not list(folder.glob("*.dcm?*")) and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    bucket.may_finish.set()


def test_files_that_do_not_come_are_an_error_and_the_rest_is_kept(bucket, tmp_path):
    bucket.refused = {"uuid-LIDC-IDRI-0002-CT-1/2.dcm"}
    with pytest.raises(RuntimeError, match=r"All 2 missing series .* found 1 incomplete .*LIDC-IDRI-0002.*403"):
        download(wanted(), tmp_path / "raw")
    bucket.refused.clear()
    bucket.requests.clear()
    download(wanted(), tmp_path / "raw")
    assert bucket.fetched() == ["uuid-LIDC-IDRI-0002-CT-1/2.dcm"]


def test_a_bucket_that_gives_nothing_ends_the_download_after_the_first_call(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(lidc_download, "PATIENTS_PER_CALL", 1)
    bucket.refused = set(bucket.objects)
    with pytest.raises(RuntimeError, match=r"found 2 incomplete or absent"):
        download(wanted(), tmp_path / "raw")
    assert {key.split("/")[0] for key in bucket.requests} == {"uuid-LIDC-IDRI-0001-CT-1"}


def test_without_network_the_error_comes_at_once_and_names_the_other_copy(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(idc_index.index, "aws_endpoint_url", "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match=r"http://127.0.0.1:9 should answer.*--mirror gcs"):
        download(wanted(), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(bucket, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(1, 1, 1000)
    monkeypatch.setattr(lidc_download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(RuntimeError, match="Free some space"):
        download(wanted(), tmp_path / "raw")
    assert not bucket.requests


def test_out_must_be_a_folder(bucket, tmp_path):
    (tmp_path / "raw").write_text("")
    with pytest.raises(ValueError, match="OUT should be a folder"):
        download(wanted(), tmp_path / "raw")


def test_an_interrupted_command_says_how_to_go_on(bucket, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(idc_index.IDCClient, "download_from_selection", interrupted)
    monkeypatch.setattr(sys, "argv", ["download", str(tmp_path / "raw")])
    with pytest.raises(SystemExit) as ended:
        run_command(command("dataset_scripts/download_lidc_idri.py"))
    assert ended.value.code == 130
    assert "run the same command again" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "advice"), [([], "LIDC-XML-only.zip"), (["--with-segmentations"], "SEG and SR")])
def test_the_command_ends_with_the_next_one(bucket, tmp_path, capsys, options, advice):
    command("dataset_scripts/download_lidc_idri.py")([str(tmp_path / "raw"), *options])
    printed = capsys.readouterr().out
    assert advice in printed and "build_lidc_idri.py" in printed and "--annotations" in printed
