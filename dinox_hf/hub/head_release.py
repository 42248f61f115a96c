"""A trained head as it goes to the Hub: its base by name, its card with the repository in the snippets."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..model.modeling_dinov3_ct import Dinov3CTForImageClassification
from ..tasks.adapter_files import LOCAL_BASE, load_adapter, set_in_json
from .head_card import render_head_card
from .head_check import check_in_clean_process
from .head_facts import HUB_ID
from .head_folder import FINISHED

# One line a nodule, with the patient's pseudonym: for whoever trained the head, not for everyone.
_STAYS_HERE = {"cases.csv"}


def stage_head(output: Path, repo: str, folder: Path, base: str | None) -> tuple[Path, dict[str, Any]]:
    """Copy a head into a folder and write there what the Hub's readers need.

    Args:
        output: of training/finetune_classification.py.
        repo: owner/name, which the card's snippets load.
        folder: an empty folder.
        base: name of the base on the Hub, where the head was trained on a local one.

    Returns:
        The folder and the report in it.

    Raises:
        ValueError: no finished head, or a base that nobody else has.
    """
    head = head_of(output)
    report = json.loads((head / "report.json").read_text(encoding="utf-8"))
    if report["status"] != FINISHED:
        raise ValueError(
            f"Expected a head whose training has ended; found its status {report['status']!r} in {head}. Train it to "
            f"its end: the test part is looked at once, after that."
        )
    if report.get("task") == "segmentation":
        raise ValueError(
            f"Expected a classification head in {head}; found a segmentation head, which loads only where this "
            f"package is installed. Upload its whole output, base and adapter, yourself: "
            f"hf upload OWNER/NAME {output} --exclude='*cases.csv'."
        )
    for path in sorted(head.iterdir()):
        is_of_the_head = path.is_file() and not path.is_symlink()  # links lead to the base
        if is_of_the_head and path.name not in _STAYS_HERE and not path.name.startswith("."):
            shutil.copyfile(path, folder / path.name)
    if (folder / "adapter_config.json").is_file():
        name = base or report["base"]["path"]
        if not HUB_ID.fullmatch(name) or name == LOCAL_BASE:
            raise ValueError(
                f"An adapter works only on its base, so the base has to be on the Hub as well; found {name}. Publish "
                f"it first, python training/publish.py {output / 'base'} --repo OWNER/NAME --push, then give "
                f"--base OWNER/NAME here."
            )
        report["base"]["path"] = name
        set_in_json(folder / "adapter_config.json", base_model_name_or_path=name)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "README.md").write_text(render_head_card(report, repo), encoding="utf-8")
    return folder, report


def head_of(output: Path) -> Path:
    """Where the files of a head lie in the output of its training.

    Raises:
        ValueError: if no epoch was finished.
    """
    for name in ("adapter", "model"):
        if (output / name / "report.json").is_file():
            return output / name
    raise ValueError(
        f"Expected adapter/ or model/ with report.json in {output}; found neither. Let the training finish."
    )


def answers_alike(folder: Path, output: Path) -> str:
    """Compare what a stranger computes with what our own classes do, on random pixels.

    The base is the copy beside the head where there is one, else the download that the training has made.

    Args:
        folder: with the files of the head.
        output: of the training, with base/ perhaps.

    Raises:
        RuntimeError: if a way of loading fails, or answers differently.
    """
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch) / "head"
        shutil.copytree(folder, staged)
        if (output / "base").is_dir():
            (Path(scratch) / "base").symlink_to((output / "base").resolve())
            set_in_json(staged / "adapter_config.json", base_model_name_or_path=LOCAL_BASE)
        answers = check_in_clean_process(staged, load_head(staged), probe(report))
    return "; ".join(f"{answer['way']} {answer['largest_difference']:.1e}" for answer in answers)


def refuse_other_base(folder: Path, output: Path) -> None:
    """Ask for the same answers on the base as the Hub gives it now: the last question before an adapter is pushed.

    Args:
        folder: of `stage_head`; a whole model needs no base.
        output: of the training, with base/ perhaps.

    Raises:
        RuntimeError: if the base is not there, or is another one than the head was trained on.
    """
    if not (folder / "adapter_config.json").is_file():
        return
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    try:
        trained = load_head(folder, output / "base" if (output / "base").is_dir() else None)
        check_in_clean_process(folder, trained, probe(report), is_online=True)
    except RuntimeError as error:
        raise RuntimeError(
            f"Expected {base} on the Hub to be the base that this head was trained on; found: {error}\nPublish "
            f"{output / 'base'} under that name first, with --push: it has the pooling that the head needs."
        ) from error


def load_head(folder: Path, base: Path | None = None) -> torch.nn.Module:
    """A head by our own classes, in float32.

    Args:
        folder: with the adapter or the whole model.
        base: of an adapter; by default what it names.
    """
    config_file = folder / "adapter_config.json"
    if not config_file.is_file():
        return Dinov3CTForImageClassification.from_pretrained(folder, dtype=torch.float32)
    name = json.loads(config_file.read_text())["base_model_name_or_path"]
    place = base or ((folder / name).resolve() if name == LOCAL_BASE else name)
    return load_adapter(Dinov3CTForImageClassification.from_pretrained(place, dtype=torch.float32), folder)


def probe(report: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Two random lesions: pixel_values (2, 3, S, S) or (2, slices, 3, S, S), and spacing_mm (2, 2)."""
    side, slices = report["size_px"], report["head"]["slices"]
    shape = (2, 3, side, side) if slices == 1 else (2, slices, 3, side, side)
    draw = torch.Generator().manual_seed(0)
    spacing_mm = torch.full((2, 2), report["field_mm"] / side)
    return {"pixel_values": torch.randn(shape, generator=draw), "spacing_mm": spacing_mm}
