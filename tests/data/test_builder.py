import json
import shutil
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
import yaml
from datasets import load_dataset

from dataset_scripts.build_lidc_idri import main
from dinox_hf.data.builder import build_dataset
from dinox_hf.data.building import pieces
from dinox_hf.data.building.dataset_card import render_card
from dinox_hf.data.building.ingest_report import split_of
from dinox_hf.data.readers.dicom import Stack
from dinox_hf.data.schema import MARK_FEATURES
from dinox_hf.data.sources.lidc_idri import collection_of
from dinox_hf.data.volume import Rejection
from tests.data.builds import contents, peak_of_build, write_patient
from tests.data.scans import nodule_xml, sphere_hu, square, write_series, write_xml


@pytest.fixture
def raw(tmp_path):
    for number in range(3):
        write_patient(tmp_path / "raw", number)
    return tmp_path / "raw"


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
    assert [config["config_name"] for config in metadata["configs"]] == ["slices", "nodules", "marks"]
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


def test_a_scan_that_is_lost_makes_another_input_and_a_text_beside_the_scans_does_not(raw, tmp_path):
    build_dataset(raw, tmp_path / "out")
    (raw / "notes.txt").write_text("hello")
    build_dataset(raw, tmp_path / "out")
    (raw / "lost").mkdir()
    (raw / "lost" / "001.dcm").write_bytes(b"")
    with pytest.raises(ValueError, match="built from other files"):
        build_dataset(raw, tmp_path / "out", skip_refused=True)
    report = build_dataset(raw, tmp_path / "out", skip_refused=True, overwrite=True)
    assert any(entry["path"] == "lost/001.dcm" for entry in report["rejections"])


def test_memory_does_not_grow_with_the_number_of_series(tmp_path):
    voxels, peaks = sphere_hu(16, 512, 512), {}
    for count in (2, 9):
        for number in range(count):
            folder = tmp_path / str(count) / str(number)
            write_series(folder, voxels, SeriesInstanceUID=f"1.{number}", PatientID=f"P{number}")
        peaks[count] = peak_of_build(tmp_path / str(count), tmp_path / f"out{count}")
    # Arrow's allocator goes up and down by 25 MB, whatever the number of series.
    assert peaks[9] - peaks[2] < 40, f"7 more series are {7 * voxels.nbytes / 1e6:.0f} MB"


def test_two_workers_give_the_bytes_of_one(raw, tmp_path):
    build_dataset(raw, tmp_path / "one")
    build_dataset(raw, tmp_path / "two", workers=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


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
    monkeypatch.setattr(Stack, "load", lambda stack: Rejection("a.dcm", "rotten", "Get it again."))
    with pytest.raises(ValueError, match="rotten"):
        build_dataset(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def one_rotten(monkeypatch):
    """The pixels of series 1.2.1 cannot be decoded, which no header tells."""
    load = Stack.load

    def load_or_not(stack):
        return (
            Rejection("patient1", "series 1.2.1 is rotten", "Get it.", 6, "scan")
            if stack.series_id == "1.2.1"
            else load(stack)
        )

    monkeypatch.setattr(Stack, "load", load_or_not)


def test_a_series_refused_late_costs_none_of_the_others(raw, tmp_path, one_rotten, capsys, monkeypatch):
    with pytest.raises(ValueError, match=r"patient1: series 1.2.1 is rotten. Get it. Or pass --skip-refused"):
        build_dataset(raw, tmp_path / "out")
    assert len(list((tmp_path / "out" / ".building" / "pieces").glob("*.slices.parquet"))) == 2
    built = []
    monkeypatch.setattr(pieces, "write_slices", lambda volume, path: built.append(volume))
    report = build_dataset(raw, tmp_path / "out", skip_refused=True)
    assert report["num_series"] == 2 and not built
    assert [entry["reason"] for entry in report["rejections"]] == ["series 1.2.1 is rotten"]


def test_a_series_refused_by_one_job_is_known_to_the_one_that_finishes_last(raw, tmp_path, one_rotten):
    options = {"num_shards": 2, "skip_refused": True}
    assert build_dataset(raw, tmp_path / "out", shard_index=1, **options) is None
    report = build_dataset(raw, tmp_path / "out", shard_index=0, **options)
    build_dataset(raw, tmp_path / "one", skip_refused=True)
    assert report["num_series"] == 2 and contents(tmp_path / "out") == contents(tmp_path / "one")


def test_more_jobs_than_series_are_no_harm(raw, tmp_path):
    build_dataset(raw, tmp_path / "one")
    for index in range(5):
        build_dataset(raw, tmp_path / "out", num_shards=5, shard_index=index)
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


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
    assert f"training/configs/vits16_trial.yaml --data.folder={tmp_path / 'out'}" in text


def test_a_built_set_is_no_raw_folder(raw, tmp_path):
    build_dataset(raw, tmp_path / "out")
    with pytest.raises(ValueError, match="found a set that is built already"):
        build_dataset(tmp_path / "out", tmp_path / "other")


def test_a_job_of_an_array_has_to_say_which_one_it_is(raw, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(raw), str(tmp_path / "out"), "--num-shards", "2"])
    assert stopped.value.code == 2 and "which job of the array" in capsys.readouterr().err


def test_annotations_that_are_not_there_are_named(raw, tmp_path):
    with pytest.raises(ValueError, match=r"--annotations should name a folder.*nothing at .*gone"):
        build_dataset(raw, tmp_path / "out", annotations=[tmp_path / "gone"])


def test_volume_files_become_slices_like_a_dicom_series(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("a.nii.gz", "b.nrrd", "c.mhd", "d.mha"):
        image = sitk.GetImageFromArray(sphere_hu())
        image.SetSpacing((0.7, 0.8, 2.5))
        sitk.WriteImage(image, str(tmp_path / "raw" / name))
    report = build_dataset(tmp_path / "raw", tmp_path / "out")
    slices = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert (report["num_series"], len(slices)) == (4, 24)
    for first, patient in zip(range(0, 24, 6), "abcd", strict=True):
        rows = slices[first : first + 6]
        np.testing.assert_array_equal(np.array(rows["image"], dtype=np.int16), sphere_hu())
        assert set(rows["patient_id"]) == {patient} and rows["spacing_mm"][0] == pytest.approx([2.5, 0.8, 0.7])


def test_a_volume_whose_voxels_prove_to_be_labels_costs_no_scan(tmp_path):
    (tmp_path / "raw").mkdir()
    for name, voxels in (("ct.nii.gz", sphere_hu() - 500), ("labels.nii.gz", np.maximum(sphere_hu(), 0))):
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "raw" / name))
    report = build_dataset(tmp_path / "raw", tmp_path / "out")
    assert (report["num_series"], report["warnings"]) == (1, [])
    (rejection,) = report["rejections"]
    assert rejection["path"] == "labels.nii.gz" and "label map" in rejection["reason"]


def test_marks_are_a_configuration_with_a_row_for_each_point(raw, tmp_path):
    report = build_dataset(raw, tmp_path / "out")
    marks = load_dataset(str(tmp_path / "out"), "marks", split="train", cache_dir=str(tmp_path / "cache"))
    assert marks.features == MARK_FEATURES
    assert marks[0] == {
        **{"patient_id": "P0", "series_id": "1.2.0", "kind": "small_nodule", "reader": 0, "name": "S1"},
        **{"slice_index": 2, "z_mm": -25.0, "row": 5.0, "column": 4.0},
    }
    assert marks["kind"] == ["small_nodule", "non_nodule"] * 3
    assert (report["num_marks"], report["num_small_nodules"], report["num_non_nodules"]) == (6, 3, 3)


def test_annotations_may_lie_elsewhere_and_those_of_other_scans_are_counted(raw, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "LIDC-XML.zip", "w") as archive:
        for number in range(3):
            xml = raw / f"patient{number}" / "reads.xml"
            archive.write(xml, f"tcia/{number}.xml")
            xml.unlink()
    (tmp_path / "more").mkdir()
    write_xml(tmp_path / "more" / "a.xml", [nodule_xml([(-30, "9.9.1", square(3, 9))])], "9.9")
    places = ["--annotations", str(tmp_path / "LIDC-XML.zip"), "--annotations", str(tmp_path / "more")]
    main([str(raw), str(tmp_path / "out"), *places])
    report = json.loads((tmp_path / "out" / "ingest_report.json").read_text())
    assert report["num_nodules"] == 3 and not report["warnings"] and not report["rejections"]
    assert report["series"][0]["annotation"] == "LIDC-XML.zip/tcia/0.xml"
    assert "1 annotations belong to scans that are not in RAW" in capsys.readouterr().out


def test_annotations_inside_raw_are_not_read_twice(raw, tmp_path):
    report = build_dataset(raw, tmp_path / "out", annotations=[raw / "patient1"])
    assert report["num_nodules"] == 3 and not report["warnings"]


def test_the_second_annotation_of_a_scan_is_a_warning(raw, tmp_path):
    (raw / "again.xml").write_bytes((raw / "patient1" / "reads.xml").read_bytes())
    report = build_dataset(raw, tmp_path / "out")
    assert report["num_nodules"] == 3
    assert report["warnings"] == ["patient1/reads.xml: not used, since again.xml annotates the same scan"]


def test_names_of_no_public_collection_are_a_warning_until_they_are_salted(raw, tmp_path, capsys):
    build_dataset(raw, tmp_path / "out")
    assert capsys.readouterr().out.count("build with --salt-file") == 1
    assert "Whether they lead to a patient is not known" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "salt").write_text("3f" * 32)
    build_dataset(raw, tmp_path / "salted", salt_file=tmp_path / "salt")
    assert "--salt-file" not in capsys.readouterr().out
    card = (tmp_path / "salted" / "README.md").read_text()
    assert "as pseudonyms" in card and "Whether" not in card


def test_a_public_collection_keeps_its_names_without_a_warning(tmp_path, capsys):
    write_patient(tmp_path / "raw", 1, PatientID="LIDC-IDRI-0001")
    build_dataset(tmp_path / "raw", tmp_path / "out")
    assert "WARNING" not in capsys.readouterr().out
    assert "public pseudonyms of the collection" in (tmp_path / "out" / "README.md").read_text()


def test_the_split_follows_the_pseudonym(tmp_path):
    for number in range(12):
        write_patient(tmp_path / "raw", number)
    (tmp_path / "salt").write_text("3f" * 32)
    report = build_dataset(tmp_path / "raw", tmp_path / "out", salt_file=tmp_path / "salt")
    for series in report["series"]:
        assert series["split"] == split_of(series["patient_id"], 12)
    ids = [(series["patient_id"], series["series_id"]) for series in report["series"]]
    assert ids == sorted(ids), "the order of the real ids would tell something of them"


@pytest.mark.parametrize("place", ["raw/salt", "out/salt"])
def test_a_salt_where_it_could_be_published_is_refused(raw, tmp_path, place):
    (tmp_path / "out").mkdir()
    (tmp_path / place).write_text("3f" * 32)
    with pytest.raises(ValueError, match="inside RAW or OUT"):
        build_dataset(raw, tmp_path / "out", salt_file=tmp_path / place)


def test_both_sizes_are_printed_and_what_is_built_does_not_count_again(raw, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dinox_hf.data.building.disk_space.MEGABYTE", 1)
    build_dataset(raw, tmp_path / "out", num_shards=3, shard_index=0)
    build_dataset(raw, tmp_path / "out", num_shards=3, shard_index=1)
    first, second = (line for line in capsys.readouterr().out.splitlines() if "Disk: about" in line)
    assert "about 8,640 MB for the Parquet set, 8,640 MB of it still" in first and "later 17,280 MB for the" in first
    assert "about 8,640 MB for the Parquet set, 5,760 MB of it still" in second


def test_a_small_disk_stops_before_anything_is_written(raw, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=4000)
    monkeypatch.setattr("dinox_hf.data.building.disk_space.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(RuntimeError, match=r"should have 0 MB free; found 0 MB"):
        build_dataset(raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_field_of_the_card_template_is_filled(raw, tmp_path):
    report = build_dataset(raw, tmp_path / "out")
    assert "$" not in render_card(report, collection_of(["P1"]))
