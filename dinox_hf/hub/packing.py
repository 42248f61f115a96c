"""From a folder on this machine to a checked release: a run, a head, its base or a data set, told by its files."""

import json
from pathlib import Path

from ..evaluation.backbones.learning import latest_checkpoint, read_run, sets_of
from .base_release import is_base, stage_base
from .card_checks import (
    refuse_invalid_card,
    refuse_invalid_dataset_card,
    refuse_unstated_head_licences,
    refuse_unstated_licences,
)
from .card_facts import find_set, metadata_of
from .checks import (
    PUBLISHABLE,
    PUBLISHABLE_DATA,
    private_words,
    refuse_file_kinds,
    refuse_large_files,
    refuse_leaks,
)
from .clean_process import run_in_clean_process
from .export import compare_in_clean_process
from .head_release import answers_alike, head_of, stage_head
from .identifiers import patients_of, refuse_identifiers_in_rows, refuse_identifiers_in_text
from .publish import refuse_other_tokens, write_export
from .release import Check, Kind, Release, files_in, run_check


def kind_of(source: Path) -> Kind:
    """Tell a run, a head, the base of an adapter and a data set apart.

    Raises:
        ValueError: if the folder is none of them.
    """
    if (source / "run.yaml").is_file() or (source / "checkpoints").is_dir():
        return "model"
    if (source / "finetune.yaml").is_file():
        return "head"
    if (source / "ingest_report.json").is_file():
        return "dataset"
    if is_base(source):
        return "base"
    raise ValueError(
        f"Expected a run (run.yaml), a trained head (finetune.yaml) or a built data set (ingest_report.json) in "
        f"{source}; found none of these files. Name the output folder of training/pretrain.py, of "
        f"training/finetune_classification.py or of dataset_scripts/build_*.py."
    )


def pack(source: Path, repo: str, scratch: Path, plain_at_extent: bool = False, base: str | None = None) -> Release:
    """Make everything that would be pushed, and check it. Nothing leaves the machine.

    Args:
        source: a run, a head's output folder or a built data set.
        repo: owner/name on the Hub, which the card's snippets load.
        scratch: an empty folder for what is made; it has to live as long as the release.
        plain_at_extent: of a run, see `publish_run`.
        base: of a head, the name of its base on the Hub, where it was trained on a local one.

    Raises:
        ValueError: if nothing can be made of the folder. A check that fails is in the release instead.
    """
    kind = kind_of(source)
    if kind == "model":
        return _pack_run(source, repo, scratch, plain_at_extent)
    if kind == "head":
        return _pack_head(source, repo, scratch, base)
    return _pack_base(source, repo, scratch) if kind == "base" else _pack_dataset(source, repo, scratch)


def _pack_run(run: Path, repo: str, folder: Path, plain_at_extent: bool) -> Release:
    latest_checkpoint(run)
    facts = write_export(run, folder, plain_at_extent, repo)
    files = files_in(folder)

    def same_tokens() -> str:
        answers = compare_in_clean_process(folder, facts.backbone)
        refuse_other_tokens(answers)
        return "; ".join(f"{answer.way} {answer.largest_difference:.1e}" for answer in answers)

    checks = [
        *_common_checks(files, run, _training_patients(run)),
        run_check("licences", lambda: refuse_unstated_licences(facts)),
        run_check("loads without dinox_hf, largest difference from the training checkpoint", same_tokens),
    ]
    return Release(repo, "model", f"{facts.name}, run {facts.config['dinox_run']}", files, checks)


def _pack_head(output: Path, repo: str, scratch: Path, base: str | None) -> Release:
    folder, report = stage_head(output, repo, scratch, base)
    files = files_in(folder)
    checks = [
        *_common_checks(files, output, set()),
        run_check("licences", lambda: refuse_unstated_head_licences(report)),
        run_check("loads without dinox_hf, largest difference of the logits", lambda: answers_alike(folder, output)),
    ]
    title = f"Nodule malignancy on {report['base']['name']}, {report['epochs']} epochs"
    return Release(repo, "head", title, files, checks)


def _pack_base(source: Path, repo: str, folder: Path) -> Release:
    report = stage_base(source, repo, folder)
    files, output = files_in(folder), source.resolve().parent
    with_adapter = "loads without dinox_hf beneath its adapter, largest difference of the logits"
    checks = [
        *_common_checks(files, output, set()),
        run_check("licences", lambda: refuse_unstated_head_licences(report)),
        run_check(with_adapter, lambda: answers_alike(head_of(output), output)),
    ]
    return Release(repo, "base", f"Base for adapters, {report['base']['name']}", files, checks)


def _pack_dataset(source: Path, repo: str, scratch: Path) -> Release:
    card = (source / "README.md").read_text(encoding="utf-8").replace("FOLDER_OR_REPOSITORY", repo)
    (scratch / "README.md").write_text(card, encoding="utf-8")
    files = files_in(source) | {"README.md": scratch / "README.md"}
    shards = {name: path for name, path in files.items() if path.suffix == ".parquet"}
    texts = {name: path for name, path in files.items() if name not in shards}
    private, patients = private_words(source), patients_of(shards.values())

    def opens() -> str:
        script = Path(__file__).with_name("dataset_stranger.py")
        rows = json.loads(run_in_clean_process(script, source.resolve()).splitlines()[-1])
        return ", ".join(f"{name} {columns} columns" for name, columns in rows.items())

    checks = [
        run_check("file kinds", lambda: refuse_file_kinds(files, PUBLISHABLE_DATA)),
        run_check("this machine", lambda: refuse_leaks(texts, private)),
        run_check("identifiers in rows", lambda: refuse_identifiers_in_rows(shards, private)),
        run_check("identifiers in texts", lambda: refuse_identifiers_in_text(texts, patients)),
        run_check("card", lambda: refuse_invalid_dataset_card(card, shards)),
        run_check("sizes", lambda: refuse_large_files(files)),
        run_check("load_dataset without dinox_hf, a row of every split", opens),
    ]
    report = json.loads((source / "ingest_report.json").read_text(encoding="utf-8"))
    title = f"{metadata_of(card).get('pretty_name', source.name)}, {report['num_series']} series"
    return Release(repo, "dataset", title, files, checks)


def _common_checks(files: dict[str, Path], source: Path, patients: set[str]) -> list[Check]:
    return [
        run_check("file kinds", lambda: refuse_file_kinds(files, PUBLISHABLE)),
        run_check("this machine", lambda: refuse_leaks(files, private_words(source))),
        run_check("identifiers", lambda: refuse_identifiers_in_text(files, patients)),
        run_check("card", lambda: refuse_invalid_card(files["README.md"].read_text(encoding="utf-8"))),
        run_check("sizes", lambda: refuse_large_files(files)),
    ]


def _training_patients(run: Path) -> set[str]:
    """Patients of the sets that a run was trained on, where these are still at hand."""
    places = [find_set(run, folder) for folder, _ in sets_of(read_run(run))]
    return patients_of(shard for place in places if place for shard in sorted(place.glob("*/*.parquet")))
