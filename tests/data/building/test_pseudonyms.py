import pytest
from pydicom.uid import UID

from dinox_hf.data.building.pseudonyms import Pseudonyms
from dinox_hf.data.volume import Rejection

SALTED = Pseudonyms(b"sixteen bytes or more")


def test_without_a_salt_all_names_are_kept():
    rejection = Rejection("Doe/1.dcm", "a copy of 'Doe/2.dcm' 1.2.3.4", "Ask Doe.")
    hide = Pseudonyms()
    assert (hide.patient("Doe"), hide.uid("1.2.3"), hide.path("Doe/1.dcm"), hide.name("N1")) == (
        *("Doe", "1.2.3", "Doe/1.dcm", "N1"),
    )
    assert hide.rejection(rejection) == rejection


def test_pseudonyms_are_the_same_every_time_and_differ_by_salt_name_and_kind():
    # Pinned: a set built next year must know its patients again.
    assert SALTED.patient("Doe") == "patient-14155342004d0cfb86b5"
    assert SALTED.patient("Doe") == Pseudonyms(b"sixteen bytes or more").patient("Doe")
    assert SALTED.patient("Doe") != Pseudonyms(b"another salt as long").patient("Doe")
    assert SALTED.patient("Doe") != SALTED.patient("doe")
    assert SALTED.uid("Doe")[5:] != SALTED.patient("Doe")[8:]
    assert SALTED.fingerprint != Pseudonyms(b"another salt as long").fingerprint


def test_uids_are_valid_uids_of_a_uuid_and_an_empty_one_stays_empty():
    for number in range(200):
        uid = UID(SALTED.uid(f"1.2.840.{number}"))
        assert uid.is_valid and uid.startswith("2.25.") and int(uid[5:]) < 2**128
    assert SALTED.uid("") == ""


def test_what_lay_in_one_folder_still_does_and_known_endings_stay():
    first, second = SALTED.path("Doe/a.DCM").split("/"), SALTED.path("Doe/b.nii.gz").split("/")
    assert first[0] == second[0] and first[1] != second[1]
    assert first[1].endswith(".dcm") and second[1].endswith(".nii.gz")
    assert "." not in SALTED.path("scan.Doe^Jane") and SALTED.path(".") == "."


@pytest.mark.parametrize(
    "text",
    [
        "series 1.2.840.7 should have 3 whole slices; found 1 damaged: Doe Jane/scan 1.dcm (its pixels end)",
        "found two at 5.00 mm: Doe Jane/scan 1.dcm and Doe Jane/scan 2.dcm",
        "Doe Jane/scan 1.dcm: 3 of 4 outlines of reader 1's 'Doe 1' lie on slices that are absent",
        "a copy of Doe Jane/scan 2.dcm",
        "series Doe_CT should have one size; found (2, 3) in Doe Jane.",
        "no file '/home/Doe Jane/x' or \"Doe\"",
    ],
)
def test_a_sentence_loses_every_name_and_keeps_its_sense(text):
    paths = ("Doe Jane/scan 1.dcm", "Doe Jane/scan 2.dcm", "Doe Jane")
    names = dict.fromkeys(paths, SALTED.path) | {"Doe_CT": SALTED.uid}
    hidden = SALTED.text(text, names)
    assert "Doe" not in hidden and "1.2.840" not in hidden
    for word in ("should have", "found two at 5.00 mm: ", "of reader 1's", "a copy of ", "(2, 3)", "whole slices;"):
        assert (word in hidden) == (word in text)


def test_a_known_path_gets_the_pseudonym_it_has_elsewhere():
    hidden = SALTED.text("a copy of Doe Jane/scan 2.dcm.", {"Doe Jane/scan 2.dcm": SALTED.path})
    assert hidden == f"a copy of {SALTED.path('Doe Jane/scan 2.dcm')}."
    assert SALTED.text("series 1.2.840.7 ends") == f"series {SALTED.uid('1.2.840.7')} ends"


def test_the_salt_is_read_without_its_newline_and_never_shown(tmp_path):
    (tmp_path / "salt").write_text("sixteen bytes or more\n")
    assert Pseudonyms.from_file(tmp_path / "salt") == SALTED
    assert "sixteen" not in repr(SALTED)


@pytest.mark.parametrize("content", [None, b"", b"short\n"])
def test_a_salt_that_is_none_says_how_to_make_one(tmp_path, content):
    if content is not None:
        (tmp_path / "salt").write_bytes(content)
    with pytest.raises(ValueError, match=r"salt file should hold.*found.*openssl rand -hex 32 >"):
        Pseudonyms.from_file(tmp_path / "salt")
