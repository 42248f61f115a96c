import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dinox_hf.hub.checks import find_leaks, leaks_in, private_words, refuse_unfit_to_publish
from dinox_hf.hub.release import files_in


@pytest.mark.parametrize(
    "text",
    ["data: /home/anna/lidc", '"/mnt/raid/scans/0001"', r"C:\Users\anna\scans", r"\\radiology\share", "(/scratch/x1)"],
)
def test_paths_of_a_machine_are_found(text):
    assert leaks_in(text, private=set())


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/data/home/x",
        "the mean and/or the maximum",
        "figures/attention.png",
        "-600/1500, 40/400",
        "from .configuration_dinov3_ct import Dinov3CTConfig",
        r"a regular expression \d+\w",
    ],
)
def test_ordinary_text_is_no_path(text):
    assert leaks_in(text, private=set()) == []


def test_the_name_of_the_machine_is_private_unless_it_is_a_plain_word(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-node17")
    assert "gpu-node17" in private_words(tmp_path)
    monkeypatch.setattr("socket.gethostname", lambda: "radiology")
    assert "radiology" not in private_words(tmp_path)


def test_a_path_in_a_picture_is_found(tmp_path):
    info = PngInfo()
    info.add_text("Source", "study-0815 on ward7")
    Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert find_leaks(files_in(tmp_path), private={"study-0815"}) == ["a.png: study-0815"]


def test_a_folder_that_names_the_run_is_refused_and_the_file_named(tmp_path):
    run, folder = tmp_path / "run", tmp_path / "out"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"_name_or_path": str(run / "checkpoints")}))
    with pytest.raises(ValueError, match=r"config\.json"):
        refuse_unfit_to_publish(folder, run)


@pytest.mark.parametrize("name", ["optimizer.bin", "model.pth", "custom_checkpoint_0.pkl", "notes.txt"])
def test_a_file_that_may_hold_a_pickle_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=name):
        refuse_unfit_to_publish(tmp_path, tmp_path / "run")
