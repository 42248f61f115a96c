"""Mistakes at the command line: one paragraph – expected, found, how to mend – exit code 2, nothing left behind."""

import errno
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from dinox_hf.console import run_command
from tests.data.scans import nodule_xml as nodule
from tests.data.scans import square, write_series, write_xml

ROOT = Path(__file__).resolve().parents[1]


def command(path: str):
    """What stands under `if __name__ == "__main__"` in a script."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "command", module.main)


def empty_folder(folder):
    (folder / "raw").mkdir()


def no_ct(folder):
    (folder / "raw").mkdir()
    (folder / "raw" / "notes.txt").write_text("no scan here")


def one_truncated(folder):
    files = write_series(folder / "raw")
    files[2].write_bytes(files[2].read_bytes()[:-50])


def missing_slice(folder):
    write_series(folder / "raw")[2].unlink()


def foreign_xml(folder):
    write_series(folder / "raw")
    write_xml(folder / "raw" / "a.xml", [nodule([(-30, "9.9.1", square(3, 9))])], "9.9")


def file_as_output(folder):
    (folder / "out").write_text("notes")


def run_without_checkpoint(folder):
    (folder / "run").mkdir()
    (folder / "run" / "run.yaml").write_text("data: {folder: dataset}\n")


BUILD = ("dataset_scripts/build_lidc_idri.py", "{folder}/raw", "{folder}/out")
FINETUNE = ("training/finetune_classification.py", "a backbone", "a set")
PRETRAIN = ("training/pretrain.py", "--output={folder}/out")

CASES = {
    "build: nothing there": (None, BUILD, "found nothing at"),
    "build: an empty folder": (empty_folder, BUILD, "found no file in"),
    "build: a folder without CT": (no_ct, BUILD, "at least one CT series"),
    "build: one truncated file": (one_truncated, BUILD, "its pixels end after"),
    "build: a missing slice": (missing_slice, BUILD, "gaps from 2.50 to 5.00 mm"),
    "build: an XML of another series": (foreign_xml, BUILD, "should belong to its scans"),
    "pretrain: an unknown preset": (None, (*PRETRAIN, "--model.preset=vits61"), "Did you mean"),
    "pretrain: an unknown key": (None, (*PRETRAIN, "--crops.num_locals=4"), "Did you mean `crops.num_local`?"),
    "pretrain: no such file": (None, (*PRETRAIN, "training/configs/quickstrat.yaml"), "quickstart.yaml"),
    "pretrain: no dataset": (None, (*PRETRAIN, "--data.folder={folder}/none"), "folder of a built set"),
    "pretrain: too large for its device": (None, (*PRETRAIN, "--device_gb=0.001"), "It does not fit: 0."),
    "pretrain: nothing to resume": (None, (*PRETRAIN, "--resume"), "found none. Start the run"),
    "pretrain: a file as output": (file_as_output, PRETRAIN, "/out is a file. Name another with --output="),
    "pretrain: a folder in a file": (file_as_output, (*PRETRAIN[:1], "--output={folder}/out/run"), "/out is a file."),
    "pretrain: a file as output to resume": (file_as_output, (*PRETRAIN, "--resume", "auto"), "/out is a file."),
    "pretrain: a space for =": (None, (*PRETRAIN, "--steps", "5"), "Write --steps=5."),
    "pretrain: nothing to learn": (None, (*PRETRAIN, "--losses={{dino: 0, ibot: 0, koleo: 0}}"), "nothing to learn"),
    "pretrain: no heads": (
        None,
        (*PRETRAIN, "--model.overrides.num_attention_heads=0"),
        "_heads must be >= 1; found 0",
    ),
    "evaluate: no checkpoint": (run_without_checkpoint, ("training/evaluate.py", "{folder}/run"), "checkpoint"),
    "finetune: no dataset": (None, ("training/finetune_classification.py", "a backbone"), "Expected BACKBONE DATASET"),
    "finetune: no backbone": (None, (*FINETUNE, "--output={folder}/out"), "an existing path; found 'a backbone'"),
    "finetune: an unknown key": (None, (*FINETUNE, "--adaptation.ranks=4"), "Did you mean `adaptation.rank`?"),
    "publish: no run, head or set": (
        empty_folder,
        ("training/publish.py", "{folder}/raw", "--repo", "dinox/x"),
        "found none of these files",
    ),
    "publish: no checkpoint": (
        run_without_checkpoint,
        ("training/publish.py", "{folder}/run", "{folder}/out"),
        "checkpoint",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_ends_in_one_paragraph_and_code_2(name, tmp_path, monkeypatch, capsys):
    spoil, (script, *arguments), message = CASES[name]
    if spoil:
        spoil(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", [script, *(argument.format(folder=tmp_path) for argument in arguments)])
    with pytest.raises(SystemExit) as ended:
        run_command(command(script))
    errors = capsys.readouterr().err
    paragraph = errors[errors.index("error: ") :].strip()
    assert ended.value.code == 2
    assert message in paragraph and "\n\n" not in paragraph and "Traceback" not in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_out_of_a_library_is_a_bug_and_keeps_its_traceback():
    def fault():
        int("no number")

    with pytest.raises(ValueError, match="invalid literal"):
        run_command(fault)


def test_a_full_disk_is_no_bug_wherever_it_is_met(capsys):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "pictures/step_00000010.png")

    with pytest.raises(SystemExit) as ended:
        run_command(full)
    found = capsys.readouterr().err
    assert ended.value.code == 2 and "No space left on device: 'pictures/step_00000010.png'. Free some" in found


def test_ctrl_c_is_no_fault(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run_command(interrupted)
    assert ended.value.code == 130 and "Interrupted" in capsys.readouterr().err
