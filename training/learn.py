"""Does it learn from real images? python training/learn.py [--data FOLDER] [--out FOLDER] [--workers 2] [--a.b=c …].

Pretrains a small backbone on half of the patients, probes it on the other half beside its controls, and the other way
round: with and without Gram anchoring, three seeds. Images come from $DINOX_REAL_DATA, or from --data. Whatever stops
it, the same command goes on; `--a.b=c` changes a field of every run, and then wants another --out.
"""

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from dinox_hf.console import run_command
from dinox_hf.data.builder import build_dataset
from dinox_hf.data.durable_files import write_text_whole
from dinox_hf.data.leaks import check_no_leak
from dinox_hf.data.patch_set import build_patch_set
from dinox_hf.data.slices import SliceSet
from dinox_hf.data.sources.lidc_patches import HALVES, NodulePatches, read_patches
from dinox_hf.evaluation.backbones.learning import read_metrics
from dinox_hf.evaluation.pages.figures import draw_patch_probes
from dinox_hf.evaluation.study.patch_probe import GRAM, PLAIN, PatchProbeSettings
from dinox_hf.evaluation.study.patch_report import markdown, verdict
from dinox_hf.evaluation.study.patch_study import TrainedRun, measure, num_parts
from dinox_hf.pretraining.checkpoint import latest_checkpoint
from dinox_hf.pretraining.checkpoint_folders import step_of
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.run_record import prepare_folder
from dinox_hf.side_by_side import Job, run_side_by_side

HERE = Path(__file__).parent
PATCHES = Path("nodules") / "lidc_maxslice_71px_otherpatients.npz"
CT = Path("chest_ct")
CONFIGS_WRITE_TO = Path("outputs/learn")  # as written in training/configs/learn*.yaml; --out takes its place
TRUNK = "first part"
CONFIGS = {TRUNK: "learn.yaml", PLAIN: "learn_plain.yaml", GRAM: "learn_gram.yaml"}
SHORT = {TRUNK: "trunk", PLAIN: "plain", GRAM: "gram"}
SEED_OF_SECOND_PART = 1000  # added, or it would see the slices of the first part again in their order


@dataclass(frozen=True)
class Part:
    """One run of training/pretrain.py."""

    run: TrainedRun
    config: PretrainConfig
    arguments: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, pretrain, probe, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("DINOX_REAL_DATA"), help="default: $DINOX_REAL_DATA")
    parser.add_argument("--out", type=Path, default=CONFIGS_WRITE_TO, help=f"default: {CONFIGS_WRITE_TO}")
    parser.add_argument("--workers", type=int, default=2, help="runs at once, a core each (default: 2)")
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind (default: 3)")
    options, overrides = parser.parse_known_args(arguments)
    disable_progress_bar()  # of transformers, which would draw one for every checkpoint

    with timed(options.out, "building"):
        patches = build(options.data, options.out)
    chains = [chain(options.out, half, seed, overrides) for half in HALVES for seed in range(options.seeds)]
    with timed(options.out, "pretraining"):
        run_side_by_side([[job(part) for part in parts] for parts in chains], options.workers)
    with timed(options.out, "probing"):
        record = probe(patches, chains, options)
    record |= {"changed": overrides, "time": json.loads(time_file(options.out).read_text())}
    write(record, options.out)


def build(data: str | None, out: Path) -> NodulePatches:
    """Sets of patches and CT series under `out`; what is there already stays.

    Raises:
        ValueError: if no folder of real images is named, or a patient of the patches is also in a CT series.
    """
    if not data:
        raise ValueError(
            "make learn expects DINOX_REAL_DATA to name a folder of real images; found it unset. Set it, or call "
            "`python training/learn.py --data FOLDER`; docs/learning.md says what lies in it and where it comes from."
        )
    patches = read_patches(Path(data) / PATCHES)
    for half, count in build_patch_set(patches, out / "patches")["splits"].items():
        print(f"{half}: {count['num_patches']} nodules of {count['num_patients']} patients")
    for part in load_config(PretrainConfig, HERE / "configs" / CONFIGS[TRUNK]).data.folders:
        folder = moved(part.folder, out)
        if folder.name != "patches":
            build_dataset(Path(data) / CT / folder.name, folder, ignore_annotations=True)
            refuse_common_patients(patches, folder)
    return patches


def refuse_common_patients(patches: NodulePatches, folder: Path) -> None:
    """A CT series is seen by the networks of both halves, so its patient must not be asked about in either."""
    slices = SliceSet(folder)
    rows = range(len(slices))
    check_no_leak(
        ["the patches"] * len(patches) + [f"the CT series of {folder.name}"] * len(slices),
        [*patches.patient_ids, *(slices.patient_id(row) for row in rows)],
        [*patches.series_ids, *(slices.series_id(row) for row in rows)],
        of=f"patches and CT series (those of training/configs/{CONFIGS[TRUNK]})",
    )


def chain(out: Path, half: str, seed: int, overrides: list[str]) -> list[Part]:
    """What one half of the patients teaches one seed: the first part, then the second without and with anchoring."""
    runs = {
        part: TrainedRun(out / "runs" / f"{half}_seed{seed}_{short}", half, seed, part)
        for part, short in SHORT.items()
    }
    parts = []
    for part, run in runs.items():
        path = HERE / "configs" / CONFIGS[part]
        folders = [
            {"folder": str(moved(each.folder, out)), "weight": each.weight} | ({"split": half} if each.split else {})
            for each in load_config(PretrainConfig, path).data.folders
        ]
        own = [f"--output={run.folder}", f"--data.folders={json.dumps(folders)}"]
        if part == TRUNK:
            own += [f"--seed={seed}"]
        else:
            own += [f"--seed={seed + SEED_OF_SECOND_PART}", f"--init.from_run={runs[TRUNK].folder}"]
        parts.append(Part(run, load_config(PretrainConfig, path, [*own, *overrides]), (str(path), *own, *overrides)))
    return parts


def job(part: Part) -> Job:
    """The command of a run, whose folder must be new or hold the same run."""
    prepare_folder(part.config, "auto")
    command = (sys.executable, str(HERE / "pretrain.py"), *part.arguments, "--resume=auto")
    folder, steps = part.run.folder, part.config.steps
    log = folder.with_suffix(".log")
    return Job(folder.name, command, log, steps, lambda: steps_done(folder, steps))


def steps_done(folder: Path, steps: int) -> int:
    """Steps of a run as its files tell; the last one counts when its checkpoint is complete."""
    checkpoint, records = latest_checkpoint(folder), read_metrics(folder)
    saved = step_of(checkpoint) if checkpoint else 0
    return max(saved, min(records[-1]["step"], steps - 1) if records else 0)


def probe(patches: NodulePatches, chains: list[list[Part]], options: argparse.Namespace) -> dict:
    """Every network on the half that it has not seen."""
    runs = [part.run for parts in chains for part in parts]
    with tqdm(total=num_parts(), desc="probing", unit="part") as bar:
        return measure(patches, runs, PatchProbeSettings(), options.out / "cache", options.workers, bar.update)


def write(record: dict, out: Path) -> None:
    """report.json, report.md and report.png."""
    write_text_whole(out / "report.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    rows = {
        each["name"]: each["scores"]
        for each in (*record["averages"][:2], *record["questions"])
        if each.get("not_measured") is None
    }
    draw_patch_probes(out / "report.png", rows)
    write_text_whole(out / "report.md", f"# Learning from real images\n\n![AUCs](report.png)\n\n{markdown(record)}")
    print("\n".join(["", *verdict(record), "", f"Report: {out / 'report.md'} (numbers: report.json)"]))


def moved(folder: str, out: Path) -> Path:
    """A folder of the configurations under `out`."""
    return out / Path(folder).relative_to(CONFIGS_WRITE_TO)


def time_file(out: Path) -> Path:
    """Where the time of every part is kept, over all attempts."""
    return out / "time.json"


@contextmanager
def timed(out: Path, part: str) -> Iterator[None]:
    """Add wall-clock and CPU seconds of a part, its processes included, to those of earlier attempts."""
    begin = time.monotonic(), cpu_seconds()
    try:
        yield
    finally:
        path = time_file(out)
        spent = json.loads(path.read_text()) if path.is_file() else {}
        before = spent.get(part, {"wall_s": 0.0, "cpu_s": 0.0})
        now = {"wall_s": time.monotonic() - begin[0], "cpu_s": cpu_seconds() - begin[1]}
        spent[part] = {name: round(before[name] + now[name], 1) for name in now}
        out.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, json.dumps(spent) + "\n")


def cpu_seconds() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    run_command(main)
