"""From a run folder to a folder that can go to the Hub: complete and checked, or not there at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..evaluation.backbones.learning import latest_checkpoint
from .card import render_card
from .card_facts import CardFacts, read_card_facts, report_of
from .checks import refuse_unfit_to_publish
from .export import Answer, answer_table, compare_in_clean_process, export_backbone


def publish_run(run: Path, out: Path, plain_at_extent: bool = False) -> list[Answer]:
    """Write the latest teacher of a run as a Hub-ready folder, and prove that others can load it.

    The folder appears in one move after every check: nothing of the machine in its text, no file that runs code when
    opened, and tokens equal to the training checkpoint's in a process in which dinox_hf cannot be imported.

    Args:
        run: a run folder, with checkpoints/ and run.yaml; evaluation/ is used where present.
        out: the new folder. An earlier export is replaced; any other folder is left alone.
        plain_at_extent: accept that plain transformers shows a network with metric coordinates at `rope_extent_mm`.

    Returns:
        One `Answer` for each way of loading the folder.

    Raises:
        ValueError: no checkpoint or run.yaml, a foreign folder at `out`, or something that must not leave or would be
            lost on the way.
        RuntimeError: the folder gives other tokens than the checkpoint.
    """
    run, out = Path(run), Path(out).resolve()
    latest_checkpoint(run)  # a run without one is told before anything is written
    refuse_foreign_folder(out)
    with made_whole(out) as folder:
        facts = write_export(run, folder, plain_at_extent)
        refuse_unfit_to_publish(folder, run)
        answers = compare_in_clean_process(folder, facts.backbone)
        refuse_other_tokens(answers)
    return answers


def write_export(run: Path, folder: Path, plain_at_extent: bool = False, repo: str = ".") -> CardFacts:
    """Fill an empty folder with the latest teacher of a run: weights, code, configurations, pictures, card.

    Args:
        run: the run folder.
        folder: an existing empty folder.
        plain_at_extent: as in `publish_run`.
        repo: what the card's snippets load: the folder itself, or a name on the Hub.

    Returns:
        What the card says.

    Raises:
        ValueError: no checkpoint or run.yaml, the evaluation of another checkpoint, or something that would be lost.
    """
    checkpoint = latest_checkpoint(run)
    report = report_of(run, checkpoint)
    export_backbone(checkpoint / "backbone", folder, run_id(run, checkpoint), plain_at_extent)
    for figure in (report or {}).get("figures", {}).values():
        copy_figure(run / "evaluation" / figure, folder / figure)
    facts = read_card_facts(run, checkpoint, folder, report, repo)
    (folder / "README.md").write_text(render_card(facts), encoding="utf-8")
    return facts


def run_id(run: Path, checkpoint: Path) -> str:
    """A short name that tells this run, at this step, from every other: from the text of run.yaml.

    Raises:
        ValueError: if the run does not say how it was trained.
    """
    run_yaml = run / "run.yaml"
    if not run_yaml.is_file():
        raise ValueError(
            f"Expected run.yaml, the configuration of the run, in {run}; found none. A model is published only with "
            f"the record of its training: give the `output` folder of training/pretrain.py, not a copy of its weights."
        )
    return f"{hashlib.sha256(run_yaml.read_bytes()).hexdigest()[:12]}-{checkpoint.name}"


def refuse_foreign_folder(out: Path) -> None:
    """Stop before anything that is not an earlier export of ours would be replaced.

    Raises:
        ValueError: if `out` holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())) or _is_our_export(out):
        return
    raise ValueError(
        f"Expected a new folder, or an earlier export, at {out}; found something else there, which is left alone. "
        f"Choose another name, or move it away yourself."
    )


@contextmanager
def made_whole(out: Path) -> Iterator[Path]:
    """A folder to fill that becomes `out` when the block ends well, and vanishes when it does not."""
    building, previous = (out.with_name(f".{out.name}.{state}") for state in ("building", "previous"))
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        _open_to_readers(building)
        shutil.rmtree(previous, ignore_errors=True)
        if out.exists():
            out.rename(previous)
        building.rename(out)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def copy_figure(source: Path, target: Path) -> None:
    """Copy one picture of the evaluation to where the card shows it."""
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)


def refuse_other_tokens(answers: list[Answer]) -> None:
    """Stop an export that loads but answers differently.

    Raises:
        RuntimeError: with the whole comparison.
    """
    if not all(answer.is_equal for answer in answers):
        names = sorted({name for answer in answers for name in answer.unmatched})
        raise RuntimeError(
            f"The exported folder should give the tokens of the training checkpoint; found\n{answer_table(answers)}\n"
            f"Weights without a match: {', '.join(names[:6]) or 'none'}. Nothing was written. The checkpoint may come "
            f"from another version of the model's code: export it with the version that trained it."
        )


def _open_to_readers(folder: Path) -> None:
    """Give every file the usual rights; some writers leave theirs to the owner alone, and folders are shared."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _is_our_export(out: Path) -> bool:
    try:
        return "dinox_run" in json.loads((out / "config.json").read_text())
    except (OSError, ValueError):
        return False
