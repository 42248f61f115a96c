"""From a run, a data set and a head to strangers: the command pushes, the real clients read, dinox_hf is not there."""

import json
import runpy
import sys
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml

import training.finetune_classification as finetune
from dinox_hf.data.builder import build_dataset
from dinox_hf.hub import packing
from dinox_hf.hub.clean_process import run_in_clean_process
from dinox_hf.hub.release import files_in
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from tests.data.builds import write_patient
from tests.evaluation.conftest import write_set

from .conftest import make_run
from .loopback import serve
from .loopback_store import LoopbackHub
from .test_push import WRITER

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).parents[2] / "training" / "publish.py"
STRANGER = """
import json, sys
import numpy as np
import torch
from datasets import load_dataset
from peft import PeftModel
from PIL import Image
from transformers import AutoBackbone, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

trust = {"trust_remote_code": True}
name, found = "dinox/vitg-ct", {}
pixels = torch.linspace(-1, 1, 3 * 48 * 32).view(1, 3, 48, 32)
with torch.no_grad():
    found["AutoModel"] = AutoModel.from_pretrained(name).eval()(pixels).last_hidden_state.tolist()
    found["trusted"] = AutoModel.from_pretrained(name, **trust).eval()(pixels).last_hidden_state.tolist()
    found["tagged"] = AutoModel.from_pretrained(name, revision="v1.0").eval()(pixels).last_hidden_state.tolist()
    found["backbone"] = AutoBackbone.from_pretrained(name).eval()(pixels).feature_maps[-1].tolist()
picture = Image.new("RGB", (64, 64), (30, 60, 90))
found["pipeline"] = np.shape(pipeline("image-feature-extraction", model=name, pool=True)(picture))
processor = AutoImageProcessor.from_pretrained(name, **trust)
slice_hu = np.linspace(-1000, 1000, 64 * 64).astype(np.int16).reshape(64, 64)
found["processor"] = processor(slice_hu, return_tensors="pt").pixel_values.tolist()
found["classifier"] = type(AutoModelForImageClassification.from_pretrained(name, num_labels=3, **trust)).__name__

rows = load_dataset("dinox/lidc-idri-2.5d", split="train")
found["rows"] = [len(rows), int(np.sum(rows[0]["image"]))]
streamed = load_dataset("dinox/lidc-idri-2.5d", "nodules", split="train", streaming=True)
found["streamed"] = [row["malignancy"] for row in streamed]

lesion = torch.linspace(-1, 1, 3 * 24 * 24).view(1, 3, 24, 24)
with torch.no_grad():
    by_id = AutoModelForImageClassification.from_pretrained("dinox/lidc-lora", **trust).eval()
    base = AutoModelForImageClassification.from_pretrained(name, **trust)
    by_peft = PeftModel.from_pretrained(base, "dinox/lidc-lora").eval()
    found["adapter"] = [by_id(lesion).logits.tolist(), by_peft(lesion).logits.tolist()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    """This process and its children speak to a Hub on this machine, with a cache of their own."""
    with pytest.MonkeyPatch.context() as patch, serve(LoopbackHub()) as hub:
        patch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr("time.sleep", lambda seconds: None)
        home = str(tmp_path_factory.mktemp("home"))
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1", "HF_HOME": home}
        for name, value in (own | {"HF_DATASETS_OFFLINE": "0"}).items():
            patch.setenv(name, value)
        yield hub


def publish(*arguments, is_checked: bool = True) -> None:
    """The command in this process; without its checks in clean processes, which take seconds each, on request."""
    with pytest.MonkeyPatch.context() as patch:
        if not is_checked:
            patch.setattr(packing, "answers_alike", lambda *_: "left out")
            patch.setattr(packing, "compare_in_clean_process", lambda *_: [])
            patch.setattr(packing, "run_in_clean_process", lambda *_: "{}")
        patch.setattr(sys, "argv", ["publish.py", *map(str, arguments)])
        runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose weights have more than 5 MB."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "wide", hidden_size=192, intermediate_size=576)
    weights = folder / "checkpoints" / "step_00000020" / "backbone" / "model.safetensors"
    assert weights.stat().st_size > 5_000_000
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    for number in (1, 2):
        write_patient(folder / "raw", number, PatientID=f"PHANTOM-000{number}")
    build_dataset(folder / "raw", folder / "set")
    return folder / "set"


@pytest.fixture(scope="module")
def head(run, tmp_path_factory):
    """A LoRA head on the run's backbone, which sees the CLS token, as any classifier on the published model does."""
    folder = tmp_path_factory.mktemp("head")
    data = write_set(folder / "tiny", num_patients=24)
    card = data / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: cc0-1.0\npretty_name: Phantom chest CT\n", 1))
    options = ["--data.test=fold", "--data.num_folds=3", "--crops.size_px=24", "--training.epochs=1"]
    options += ["--training.precision=no", "--head.pooling=cls", f"--output={folder / 'lora'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune, "check_in_clean_process", lambda *_: [])
        finetune.main(finetune.read_arguments([str(run), str(data), *options]))
    return folder / "lora"


def test_a_dry_run_shows_everything_and_sends_nothing(online, run, dataset, capsys):
    online.requests.clear()
    publish(dataset, "--repo", "dinox/lidc-idri-2.5d")
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in files_in(dataset)) and f"{len(files_in(dataset))} files" in shown
    assert shown.count("passed  ") == 7 and "FAILED" not in shown
    assert 'load_dataset("dinox/lidc-idri-2.5d", split="train")' in shown and "Dry run: nothing has left" in shown
    assert online.requests == [] and WRITER not in shown


def test_what_was_pushed_is_what_strangers_read(online, run, dataset, head, tmp_path, capsys):
    # The weights do not get through at first: nothing is visible, and the same command goes on.
    online.broken_uploads = 200
    with pytest.raises(SystemExit):
        publish(run, "--repo", "dinox/vitg-ct", "--push", "--tag", "v1.0", is_checked=False)
    assert "Nothing of this push is visible there" in capsys.readouterr().err
    assert online.model("dinox/vitg-ct").files() == {}
    online.broken_uploads = 0
    publish(run, "--repo", "dinox/vitg-ct", "--push", "--tag", "v1.0")
    publish(dataset, "--repo", "dinox/lidc-idri-2.5d", "--push", "--public", is_checked=False)  # as above
    publish(head, "--repo", "dinox/lidc-lora", "--base", "dinox/vitg-ct", "--push")
    assert online.model("dinox/vitg-ct").is_private and not online.dataset("dinox/lidc-idri-2.5d").is_private
    weights = online.model("dinox/vitg-ct").find("main").files["model.safetensors"]
    assert weights.is_lfs and len(weights.content) > 5_000_000

    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    found = json.loads(run_in_clean_process(script, folder=tmp_path, is_online=True).splitlines()[-1])

    backbone = run / "checkpoints" / "step_00000020" / "backbone"
    pixels = torch.linspace(-1, 1, 3 * 48 * 32).view(1, 3, 48, 32)
    with torch.no_grad():
        tokens = Dinov3CTModel.from_pretrained(backbone).eval()(pixels).last_hidden_state
    for way in ("AutoModel", "trusted", "tagged"):
        torch.testing.assert_close(torch.tensor(found[way]), tokens, atol=1e-4, rtol=0)
    patches = tokens[:, 5:].mT.unflatten(-1, (6, 4))
    torch.testing.assert_close(torch.tensor(found["backbone"]), patches, atol=1e-4, rtol=0)
    slice_hu = np.linspace(-1000, 1000, 64 * 64).astype(np.int16).reshape(64, 64)
    expected = Dinov3CTImageProcessor.from_pretrained(backbone)(slice_hu, return_tensors="pt").pixel_values
    torch.testing.assert_close(torch.tensor(found["processor"]), expected, atol=1e-6, rtol=0)
    assert (found["pipeline"], found["classifier"]) == ([1, 192], "Dinov3CTForImageClassification")
    assert found["rows"][0] == 12 and found["streamed"] == [[4, 2], [4, 2]]
    by_id, by_peft = map(torch.tensor, found["adapter"])
    assert by_id.shape == (1, 2) and by_id.isfinite().all()
    torch.testing.assert_close(by_id, by_peft, atol=1e-5, rtol=0)

    # No file and no line of output knows the token.
    stored = [content for repository in online.repositories.values() for content in repository.files().values()]
    assert not [content for content in stored if WRITER.encode() in content]
    shown = capsys.readouterr()
    assert WRITER not in shown.out + shown.err


def test_the_same_command_again_commits_nothing(online, dataset, capsys):
    before = list(online.dataset("dinox/lidc-idri-2.5d").history)
    publish(dataset, "--repo", "dinox/lidc-idri-2.5d", "--push", "--public", is_checked=False)
    assert "Nothing has changed, so nothing was committed" in capsys.readouterr().out
    assert online.dataset("dinox/lidc-idri-2.5d").history == before


def test_an_adapter_is_not_pushed_without_its_base(online, head, capsys):
    with pytest.raises(SystemExit):
        publish(head, "--repo", "dinox/other-lora", "--push")
    assert "the base has to be on the Hub" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        publish(head, "--repo", "dinox/other-lora", "--base", "dinox/not-there", "--push", is_checked=False)
    assert "Expected dinox/not-there on the Hub to be the base" in capsys.readouterr().err
    assert ("model", "dinox/other-lora") not in online.repositories


def test_the_base_of_an_adapter_can_be_pushed_as_a_model_of_its_own(online, head):
    publish(head / "base", "--repo", "dinox/lidc-base", "--push", is_checked=False)
    # The head is asked on the base that the Hub gives, whatever else is left out.
    publish(head, "--repo", "dinox/on-its-base", "--base", "dinox/lidc-base", "--push", is_checked=False)
    card = online.model("dinox/lidc-base").files()["README.md"].decode()
    assert "not trained" in card and 'from_pretrained("dinox/lidc-base", trust_remote_code=True)' in card


def test_the_pushed_adapter_names_its_base(online):
    files = online.model("dinox/lidc-lora").files()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "dinox/vitg-ct"
    card = files["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "dinox/vitg-ct"
    assert 'from_pretrained("dinox/lidc-lora"' in card
