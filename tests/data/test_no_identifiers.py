"""Names are planted wherever a hospital may have written one; no byte of a built set may hold any of them."""

import zipfile

import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence

from dataset_scripts.build_lidc_idri import main
from dinox_hf.data.readers.dicom import Stack
from dinox_hf.data.readers.dicom_elements import ALLOWED_TAGS
from dinox_hf.data.volume import Rejection
from tests.data.builds import non_nodule_xml, small_nodule_xml
from tests.data.scans import nodule_xml, slice_dataset, sphere_hu, square, write_xml

NAME, INSTITUTION, BORN, NUMBER = "Lovelace", "StThomas", "18151210", "4711815"
PLANTED = (NAME, INSTITUTION, BORN, NUMBER)
BY_VR = {
    **dict.fromkeys(("LO", "LT", "PN", "SH", "ST", "UC", "UT"), f"{NAME}^Ada {INSTITUTION} {NUMBER}"),
    **dict.fromkeys(("AE", "CS"), f"{NAME}"),
    **dict.fromkeys(("DA", "DT"), BORN),
    "UR": f"http://{INSTITUTION}/{NAME}",
    "UI": f"1.2.{NUMBER}",
    "IS": NUMBER,
    "DS": NUMBER,
}
UID = f"1.2.826.{NUMBER}"
CONFIGURATIONS = ("slices", "nodules", "marks")


def plant(dataset):
    """Fill every text element of the dictionary that no reader asks for, and private ones, and nested ones."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        asked_for = (
            keyword in (*ALLOWED_TAGS, "SpecificCharacterSet")
            or tag >> 16 in (0x0000, 0x0002, 0xFFFE, 0x7FE0)
            or keyword in dataset
        )
        if vr in BY_VR and not asked_for and keyword and (tag & 0xFFFF) > 0x0001:
            dataset.add(DataElement(tag, vr, BY_VR[vr], validation_mode=0))
    block = dataset.private_block(0x0011, f"{INSTITUTION} PACS", create=True)
    for offset, vr in enumerate(("LO", "PN", "UT", "DA")):
        block.add_new(offset, vr, BY_VR[vr])
    inner = slice_dataset(sphere_hu()[0, :2, :2], 0, 0, PatientName=BY_VR["PN"])
    del inner.PixelData
    dataset.add_new(0x00081140, "SQ", Sequence([inner]))
    dataset.file_meta.SourceApplicationEntityTitle = NAME
    return dataset


def write_planted(folder, patient_id, series, prefix="", skip=(), **tags):
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(sphere_hu()):
        if index not in skip:
            options = {"PatientID": patient_id, "SeriesInstanceUID": series, "StudyInstanceUID": f"{UID}.1"} | tags
            dataset = slice_dataset(pixels, 2.5 * index - 30, index, **options)
            # Some four thousand elements: one slice of each series has them all.
            dataset = plant(dataset) if index == 0 else dataset
            dataset.save_as(folder / f"{prefix}{index}.dcm", enforce_file_format=True)


def write_hospital(raw, patient="P1", file="", folder="a", series="1.2.3", name="N1"):
    """Scans, and everything that ends in a line of the report; the arguments are names that a salt has to hide."""
    write_planted(raw / folder, patient, series, file)
    roi, marks = (-27.5, f"{series}.1", square(3, 9)), small_nodule_xml(-25, f"{series}.2", (4, 5), name)
    absent = non_nodule_xml(-99, f"{series}.99", (4, 5), name) + nodule_xml([(-99, f"{series}.98", square(3, 9))])
    write_xml(raw / folder / f"{file}.xml", [nodule_xml([roi], name=name) + marks, absent], series)
    write_xml(raw / f"{file}unused.xml", [nodule_xml([(-99, "", square(3, 9))])], f"{series}.77")
    write_planted(raw / f"{folder}2", patient, f"{series}5", file, skip=(2,))
    write_planted(raw / f"{folder}3", patient, f"{series}6", file, ImagePositionPatient=[0, 0, 0])
    write_planted(raw / f"{folder}4", patient, f"{series}7", file, Modality="MR")
    for number in (8, 9):
        write_planted(raw / f"{folder}{number}", patient, f"{series}8", file)
    cut = raw / f"{folder}5" / f"{file}.dcm"
    write_planted(cut.parent, patient, f"{series}9", file)
    whole = cut.parent / f"{file}0.dcm"
    cut.write_bytes(whole.read_bytes()[:-100])
    with zipfile.ZipFile(raw / f"{file}.zip", "w") as archive:
        archive.write(whole, f"{folder}/{file}in.dcm")
    (raw / f"{file}broken.zip").write_bytes(b"nothing")
    (raw / f"{file}notes.txt").write_text(f"{NAME} was born {BORN}")
    (raw / f"{file}damaged.dcm").write_bytes(b"nothing")
    (raw / f"{file}damaged.xml").write_text(f"<LidcReadMessage>{NAME}<readingSession>")
    (raw / f"{file}foreign.xml").write_text(f"<{NAME}/>")
    nodule = nodule_xml([roi]).replace("<malignancy>4<", f"<malignancy>{NAME} {NUMBER}<")
    write_xml(raw / f"{file}wrong.xml", [nodule], series)
    image = sitk.GetImageFromArray(sphere_hu())
    image.SetMetaData("descrip", NAME)
    image.SetMetaData("aux_file", INSTITUTION)
    sitk.WriteImage(image, str(raw / f"{file}b.nii.gz"))
    (raw / f"{file}c.nii.gz").write_bytes(b"nothing")


def every_byte(out):
    """All files as they are, and all Parquet columns and metadata as text."""
    for path in out.rglob("*"):
        yield str(path.relative_to(out)).encode()
        if path.is_file():
            yield path.read_bytes()
    for path in out.rglob("*.parquet"):
        file = pq.ParquetFile(path)
        yield repr((file.schema_arrow, file.schema_arrow.metadata, file.metadata.metadata)).encode()
        table = file.read()
        for name in table.column_names:
            if name not in ("image", "mask"):
                yield repr(table[name].to_pylist()).encode()


def found_in(out, words):
    return {word for content in every_byte(out) for word in words if word.lower().encode() in content.lower()}


def build(raw, out, *options):
    main([str(raw), str(out), "--skip-refused", *options])
    assert all((out / configuration).is_dir() for configuration in CONFIGURATIONS)
    return out


def test_the_search_finds_what_a_column_holds(tmp_path):
    write_hospital(tmp_path / "raw")
    out = build(tmp_path / "raw", tmp_path / "out")
    assert found_in(out, ("P1", "1.2.3.1", "S1", "N1", "a/.xml")) == {"P1", "1.2.3.1", "N1", "a/.xml"}


def test_no_text_of_a_header_or_of_an_unread_file_reaches_a_byte_of_the_set(tmp_path):
    write_hospital(tmp_path / "raw")
    assert found_in(build(tmp_path / "raw", tmp_path / "out"), PLANTED) == set()


@pytest.fixture
def salt(tmp_path):
    (tmp_path / "salt").write_text("3f" * 32)
    return str(tmp_path / "salt")


HOSPITAL = {
    "patient": f"{NAME}^Ada {NUMBER}",
    "file": f"{NAME}, Ada {BORN} ",
    "folder": f"{INSTITUTION} {NAME}",
    "series": UID,
    "name": f"{NAME}'s",
}


def test_with_a_salt_no_patient_id_uid_or_path_reaches_a_byte_of_the_set(tmp_path, salt):
    write_hospital(tmp_path / "raw", **HOSPITAL)
    out = build(tmp_path / "raw", tmp_path / "out", "--salt-file", salt)
    assert found_in(out, (*PLANTED, "1.2.826", "3f3f3f", str(tmp_path), "raw/")) == set()
    assert "as pseudonyms" in (out / "README.md").read_text()
    tables = {name: pq.read_table(out / name) for name in CONFIGURATIONS}
    ids = {(row["patient_id"], row["series_id"]) for row in tables["slices"].select([1, 2]).to_pylist()}
    assert tables["nodules"]["nodule_id"][0].as_py().rpartition("/")[0] == tables["nodules"]["series_id"][0].as_py()
    for name in ("nodules", "marks"):
        assert {(row["patient_id"], row["series_id"]) for row in tables[name].to_pylist()} < ids


def test_with_a_salt_what_a_worker_refuses_loses_its_names_too(tmp_path, salt, monkeypatch):
    write_hospital(tmp_path / "raw", **HOSPITAL)
    load = Stack.load

    def load_or_not(stack):
        name = stack.files[2].name
        reason = f"series {stack.series_id} has a slice that cannot be read: {name}"
        return Rejection(name, reason, "Get it.", 6, "scan") if stack.series_id.endswith("58") else load(stack)

    monkeypatch.setattr(Stack, "load", load_or_not)
    out = build(tmp_path / "raw", tmp_path / "out", "--salt-file", salt)
    assert "has a slice that cannot be read" in (out / "ingest_report.json").read_text()
    assert found_in(out, (*PLANTED, "1.2.826")) == set()


def test_with_a_salt_an_unfinished_build_holds_no_name_either(tmp_path, salt, monkeypatch):
    write_hospital(tmp_path / "raw", **HOSPITAL)
    monkeypatch.setattr("dinox_hf.data.builder.assemble", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main([str(tmp_path / "raw"), str(tmp_path / "out"), "--skip-refused", "--salt-file", salt])
    assert list(tmp_path.glob("out/.building/pieces/*.slices.parquet"))
    assert found_in(tmp_path / "out", (*PLANTED, "1.2.826", "3f3f3f")) == set()
