"""README and docs tell the truth: their paths exist, their commands parse, their snippets run."""

import re
import shlex
from pathlib import Path

import pytest

import training.finetune_classification as finetune
import training.finetune_segmentation as outlines
import training.pretrain as script
from dinox_hf.hub.publish import publish_run
from tests.data.scans import write_series
from tests.evaluation.conftest import write_set
from tests.training.tiny import tiny_config, tiny_set

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
COMMANDS = [
    shlex.split(line.replace("\\\n", " "), comments=True)
    for page in PAGES
    for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
# Below a line that says why it is not run by a test, none is looked for.
SNIPPET = re.compile(r"(?<!-->\n)```python\n(.*?)```", re.DOTALL)
PHANTOM_PRESET = "training/configs/quickstart.yaml"


def after(command: list[str], word: str) -> list[str]:
    return command[command.index(word) + 1 :]


def test_every_script_and_configuration_that_a_command_names_exists():
    named = [
        word for command in COMMANDS for word in command if re.match(r"(training|dataset_scripts|accelerate_c)", word)
    ]
    assert len(named) >= 8
    assert [word for word in named if not (ROOT / word).is_file()] == []


def test_every_path_in_the_table_of_places_exists():
    places = re.findall(r"^\|.*\| `([\w./]+\.\w+)` \|$", README, re.MULTILINE) + re.findall(r"\]\(([^)]+)\)", README)
    assert len(places) >= 4
    assert [place for place in places if place != "run.yaml" and not (ROOT / place).exists()] == []


def test_every_make_target_exists():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {command[1] for command in COMMANDS if command[:1] == ["make"]} <= set(targets)


def test_the_arguments_of_every_pretraining_command_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = [
        [PHANTOM_PRESET if word == "CONFIG.yaml" else word for word in after(command, "training/pretrain.py")]
        for command in COMMANDS
        if "training/pretrain.py" in command
    ]
    assert len(found) >= 2
    for arguments in found:
        config, _ = script.read_arguments(arguments)
        assert config.steps > 0


def test_the_arguments_of_every_command_that_trains_a_head_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    name = "training/finetune_classification.py"
    found = [
        [word for word in after(command, name) if word != "CONFIG.yaml"] for command in COMMANDS if name in command
    ]
    assert len(found) >= 4
    modes = {finetune.read_arguments(arguments).adaptation.mode for arguments in found}
    assert {"lora", "frozen"} <= modes


def test_the_arguments_of_every_command_that_trains_outlines_are_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    name = "training/finetune_segmentation.py"
    found = [outlines.read_arguments(after(command, name)) for command in COMMANDS if name in command]
    assert {config.decoder.kind for config in found} == {"conv", "linear"}


def test_the_trial_configuration_reads_and_writes_where_the_readme_says():
    config, _ = script.read_arguments([str(ROOT / "training/configs/vits16_trial.yaml")])
    assert (config.data.folder, config.output) == ("outputs/trial/dataset", "outputs/trial/run")


def test_every_shipped_configuration_is_valid():
    for path in (ROOT / "training" / "configs").glob("*.yaml"):
        if path.name.startswith("finetune_"):
            head = finetune.read_arguments(["BACKBONE", "DATASET", str(path)])
            assert head.backbone == "BACKBONE" and head.training.epochs > 0
            continue
        config, _ = script.read_arguments([str(path)])
        assert config.crops.global_size % config.model.backbone().patch_size == 0


@pytest.mark.long
def test_the_python_snippets_run_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tiny_set(Path("outputs/quickstart/dataset"))
    script.main(tiny_config(data, Path("outputs/quickstart/run"), "--steps=2"))
    publish_run(Path("outputs/quickstart/run"), Path("outputs/quickstart/hub"))
    write_series(Path("RAW"))
    labelled = write_set(Path("labelled"), num_patients=24)
    options = ["--data.test=fold", "--data.num_folds=3", "--training.epochs=1"]
    finetune.main(finetune.read_arguments(["outputs/quickstart/run", str(labelled), *options]))
    snippets = [snippet for page in PAGES for snippet in SNIPPET.findall(page)]
    assert len(snippets) == 6
    results = [{} for _ in snippets]
    for snippet, names in zip(snippets, results, strict=True):
        exec(compile(snippet, "a page", "exec"), names)
    assert type(results[0]["backbone"]).__name__ == "DINOv3ViTModel"
    assert type(results[1]["backbone"]).__name__ == "Dinov3CTModel"
    assert results[0]["tokens"].shape[1] == 1 + 4 + (48 // 8) ** 2
    assert results[1]["tokens"].isfinite().all()
    assert type(results[2]["scan"]).__name__ == "Volume"
    assert results[3]["pixel_values"].shape == (8, 3, 224, 224)
    assert type(results[4]["head"]).__name__ == type(results[5]["merged"]).__name__ == "Dinov3CTForImageClassification"
