import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from dataset_scripts.build_lidc_idri import main
from dinox_hf.data import builder, pieces
from dinox_hf.data.builder import build_dataset, split_of
from dinox_hf.data.dataset_card import render_card
from dinox_hf.data.sources.lidc_idri import collection_of
from tests.data.scans import nodule_xml, sphere_hu, square, write_series, write_xml

ROOT = Path(__file__).parents[2]


def write_patient(raw, number, **tags):
    """One patient with a nodule outlined by two readers."""
    series = f"1.2.{number}"
    folder = raw / f"patient{number}"
    files = write_series(
        folder, sphere_hu() + np.int16(number), SeriesInstanceUID=series, PatientID=f"P{number}", **tags
    )
    roi = (-27.5, f"{series}.1", square(3, 9))
    write_xml(folder / "reads.xml", [nodule_xml([roi]), nodule_xml([roi], malignancy=2)], series)
    return files


@pytest.fixture
def raw(tmp_path):
    for number in range(3):
        write_patient(tmp_path / "raw", number)
    return tmp_path / "raw"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_set_opens_with_load_dataset_and_holds_every_hu(raw, tmp_path):
    report = build_dataset(raw, tmp_path / "out")
    assert (report["num_patients"], report["num_series"], report["num_slices"], report["num_nodules"]) == (3, 3, 18, 3)
    slices = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    nodules = load_dataset(str(tmp_path / "out"), "nodules", split="train", cache_dir=str(tmp_path / "cache"))
    for number in range(3):
        rows = slices[number * 6 : number * 6 + 6]
        np.testing.assert_array_equal(np.array(rows["image"], dtype=np.int16), sphere_hu() + number)
        assert rows["slice_index"] == list(range(6)) and set(rows["series_id"]) == {f"1.2.{number}"}
    assert nodules["malignancy"] == [[4, 2]] * 3 and nodules["num_readers"] == [2] * 3
    assert np.array(nodules[0]["mask"]).shape == (1, 5, 5)


def test_the_card_names_configurations_licence_and_counts(raw, tmp_path):
    build_dataset(raw, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert [config["config_name"] for config in metadata["configs"]] == ["slices", "nodules"]
    assert metadata["license"] == "other", "only scans that are LIDC-IDRI carry its licence"
    assert "18 slices of 3 series from 3 patients" in card and "Nodules by number of readers: 2: 3." in card
    assert str(tmp_path) not in card and str(tmp_path) not in (tmp_path / "out" / "ingest_report.json").read_text()


def test_lidc_and_phantom_patients_bring_their_own_licence():
    assert collection_of(["LIDC-IDRI-0001"])["license"] == "cc-by-3.0"
    assert collection_of(["PHANTOM-0001"])["license"] == "cc0-1.0"
    assert collection_of(["LIDC-IDRI-0001", "hospital-7"])["license"] == "other"


def test_a_second_run_changes_nothing_and_says_so(raw, tmp_path, capsys):
    first = build_dataset(raw, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert build_dataset(raw, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert "already built" in capsys.readouterr().out


def test_other_input_is_refused_until_overwrite(raw, tmp_path):
    build_dataset(raw, tmp_path / "out")
    write_patient(raw, 7)
    with pytest.raises(ValueError, match="built from other files"):
        build_dataset(raw, tmp_path / "out")
    assert build_dataset(raw, tmp_path / "out", overwrite=True)["num_series"] == 4
    assert len(list((tmp_path / "out" / "slices").iterdir())) == 4


def test_an_interrupted_build_shows_no_set_and_resumes_to_the_same_bytes(raw, tmp_path, monkeypatch):
    build_dataset(raw, tmp_path / "whole")
    written = []
    write_slices = pieces.write_slices

    def interrupted(volume, path):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(volume.series_id)
        write_slices(volume, path)

    monkeypatch.setattr(pieces, "write_slices", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_dataset(raw, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".building"]
    monkeypatch.setattr(pieces, "write_slices", lambda *args: written.append("again") or write_slices(*args))
    build_dataset(raw, tmp_path / "out")
    assert written[2:] == ["again"], "finished series are not built twice"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("step", range(5))
def test_a_kill_between_any_two_of_the_last_moves_is_mended_by_the_next_run(raw, tmp_path, monkeypatch, step):
    build_dataset(raw, tmp_path / "whole")
    moves = []

    def replace(source, target, move=os.replace):
        if Path(target).parent == tmp_path / "out":
            moves.append(target)
            if len(moves) > step:
                raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(builder.os, "replace", replace)
    if step < 4:
        with pytest.raises(KeyboardInterrupt):
            build_dataset(raw, tmp_path / "out")
        assert not (tmp_path / "out" / "slices").exists()
    monkeypatch.undo()
    build_dataset(raw, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_workers_give_the_bytes_of_one(raw, tmp_path):
    build_dataset(raw, tmp_path / "one")
    build_dataset(raw, tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.long
def test_kill_9_at_any_series_and_run_again_gives_the_same_bytes(tmp_path):
    for number in range(12):
        write_patient(tmp_path / "raw", number)
    build_dataset(tmp_path / "raw", tmp_path / "whole")
    command = [sys.executable, "-m", "dataset_scripts.build_lidc_idri", str(tmp_path / "raw"), str(tmp_path / "out")]
    finished = tmp_path / "out" / ".building" / "pieces"
    for workers, wanted in (("1", 1), ("2", 4), ("1", 6), ("2", 9)):
        process = subprocess.Popen([*command, "--workers", workers], cwd=ROOT, stdout=-3, stderr=-3)
        while len(list(finished.glob("*.json"))) < wanted and process.poll() is None:
            time.sleep(0.001)
        was_running = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert was_running and not (tmp_path / "out" / "slices").exists()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda raw: [path.unlink() for path in raw.rglob("*") if path.is_file()], "found no file"),
        (
            lambda raw: [path.unlink() for path in raw.rglob("*.dcm")],
            r"at least one CT series.*not a DICOM file \(3 files",
        ),
        (lambda raw: cut(raw / "patient1" / "003.dcm"), r"patient1: .*003.dcm \(its pixels end.*--skip-refused"),
        (lambda raw: (raw / "patient1" / "003.dcm").unlink(), r"gaps from 2.50 to 5.00 mm.*max_gap_mm=5.00"),
    ],
    ids=["empty folder", "no CT", "truncated slice", "missing slice"],
)
def test_bad_input_stops_with_a_way_out_and_leaves_nothing(raw, tmp_path, spoil, message):
    spoil(raw)
    with pytest.raises(ValueError, match=message):
        build_dataset(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pixels_that_only_fail_while_writing_leave_nothing_either(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "load_volume", lambda stack: pieces.Rejection("a.dcm", "rotten", "Get it again."))
    with pytest.raises(ValueError, match="rotten"):
        build_dataset(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refused_series_can_be_left_out_and_stand_in_the_report(raw, tmp_path):
    cut(raw / "patient1" / "003.dcm")
    report = build_dataset(raw, tmp_path / "out", skip_refused=True)
    assert report["num_series"] == 2
    (rejection,) = report["rejections"]
    assert rejection["path"] == "patient1" and rejection["num_files"] == 6 and "damaged" in rejection["reason"]
    assert report["warnings"] == [
        "patient1/reads.xml: no scan of series 1.2.1 in the input",
        f"patient1: {rejection['reason']}",
    ]
    assert json.loads((tmp_path / "out" / "ingest_report.json").read_text()) == report


def test_annotations_of_another_series_name_both_series(tmp_path):
    write_series(tmp_path / "raw")
    write_xml(tmp_path / "raw" / "a.xml", [nodule_xml([(-30, "9.9.1", square(3, 9))])], "9.9")
    with pytest.raises(ValueError, match=r"a\.xml for series 9\.9, but scans of series 1\.2\.3.*--ignore-annotations"):
        build_dataset(tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = build_dataset(tmp_path / "raw", tmp_path / "out", ignore_annotations=True)
    assert report["num_nodules"] == 0
    assert len(load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))) == 6
    # `datasets` opens no empty split, so a set without nodules does not offer the configuration.
    with pytest.raises(ValueError, match="'nodules' not found"):
        load_dataset(str(tmp_path / "out"), "nodules", cache_dir=str(tmp_path / "cache"))


def test_damaged_annotations_are_a_warning_and_counted_once(raw, tmp_path):
    (raw / "patient1" / "reads.xml").write_bytes(b"")
    report = build_dataset(raw, tmp_path / "out")
    assert report["num_series"] == 3
    assert [warning.split(" (")[0] for warning in report["warnings"]] == ["patient1/reads.xml: damaged LIDC XML"]
    assert [rejection["path"] for rejection in report["rejections"]].count("patient1/reads.xml") == 1


def test_a_split_without_nodules_does_not_hide_those_of_the_other(tmp_path):
    for number in range(6):
        write_series(tmp_path / "raw" / str(number), SeriesInstanceUID=f"1.{number}", PatientID=f"P{number}")
    write_xml(tmp_path / "raw" / "a.xml", [nodule_xml([(-27.5, "1.0.1", square(3, 9))])], "1.0")
    report = build_dataset(tmp_path / "raw", tmp_path / "out")
    assert {split: counts["num_nodules"] for split, counts in report["splits"].items()} == {"train": 0, "test": 1}
    nodules = load_dataset(str(tmp_path / "out"), "nodules", cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in nodules.items()} == {"test": 1}


def test_annotations_are_found_by_slice_where_the_series_differs(tmp_path):
    write_series(tmp_path / "raw")
    write_xml(tmp_path / "raw" / "other_name.xml", [nodule_xml([(-27.5, "1.2.3.1", square(3, 9))])], "lost")
    assert build_dataset(tmp_path / "raw", tmp_path / "out")["num_nodules"] == 1


def test_outlines_on_mirrored_frames_are_left_out_with_a_warning(tmp_path):
    write_series(tmp_path / "raw", ImageOrientationPatient=[-1, 0, 0, 0, 1, 0])
    write_xml(tmp_path / "raw" / "a.xml", [nodule_xml([(-27.5, "1.2.3.1", square(3, 9))])])
    report = build_dataset(tmp_path / "raw", tmp_path / "out")
    assert report["num_nodules"] == 0 and "mirrored or turned" in report["warnings"][0]


def test_a_foreign_folder_is_never_written_into(raw, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        build_dataset(raw, tmp_path / "out", overwrite=True)
    with pytest.raises(ValueError, match="one inside the other"):
        build_dataset(raw, raw / "out")


def test_patients_keep_their_split_and_a_fifth_goes_to_test():
    splits = [split_of(f"LIDC-IDRI-{number:04d}", 1010) for number in range(1, 1011)]
    assert 0.17 < splits.count("test") / 1010 < 0.23
    assert splits[0] == split_of("LIDC-IDRI-0001", 5)
    assert {split_of(f"P{number}", 4) for number in range(50)} == {"train"}


def test_no_patient_is_in_two_splits(tmp_path):
    for number in range(12):
        write_series(tmp_path / "raw" / str(number), SeriesInstanceUID=f"1.{number}", PatientID=f"P{number // 2}")
    report = build_dataset(tmp_path / "raw", tmp_path / "out")
    patients = {
        split: {
            pq.read_table(shard)["patient_id"][0].as_py() for shard in (tmp_path / "out/slices").glob(f"{split}-*")
        }
        for split in report["splits"]
    }
    assert set(patients) == {"train", "test"}
    assert not patients["train"] & patients["test"]


def test_the_command_sums_up_what_it_built_and_names_the_next_one(raw, tmp_path, capsys):
    main([str(raw), str(tmp_path / "out")])
    text = capsys.readouterr().out
    assert "3 patients, 3 series, 18 slices" in text and "Disk: about" in text
    assert "3 nodules of 3 mm or more (by number of readers 2: 3)" in text
    assert f"training/pretrain.py --data.folder={tmp_path / 'out'}" in text


def test_every_field_of_the_card_template_is_filled(raw, tmp_path):
    report = build_dataset(raw, tmp_path / "out")
    assert "$" not in render_card(report, collection_of(["P1"]))
