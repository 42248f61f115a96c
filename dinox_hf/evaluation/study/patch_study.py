"""From finished runs to the numbers of the learning experiment: features and probes of the half that was not seen."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...data.leaks import check_no_leak
from ...data.sources.lidc_patches import HALVES, NodulePatches, half_of
from ..backbones.features import Backbone, cached, load_backbone, pooled_features, random_twin
from ..backbones.learning import latest_checkpoint, learning_facts, read_metrics, read_run
from ..cohorts.nodule_sources import cut_patches
from .patch_probe import GRAM, PLAIN, RANDOM, Half, PatchProbeSettings, answer_all, questions
from .patch_report import answers_record


@dataclass(frozen=True)
class TrainedRun:
    """A finished run of the experiment."""

    folder: Path
    half: str  # whose patients it learned from
    seed: int
    part: str  # PLAIN, GRAM, or what comes before both


def num_parts() -> int:
    """How often `measure` calls `done`."""
    return len(HALVES) * (1 + len(questions()))


def measure(
    patches: NodulePatches,
    runs: list[TrainedRun],
    settings: PatchProbeSettings,
    cache: Path,
    num_threads: int,
    done: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Probe every network on the half of the patients that it did not learn from.

    Args:
        patches: all nodules.
        runs: both halves, with equally many PLAIN and GRAM runs each.
        settings: see `PatchProbeSettings`.
        cache: folder of features and scores; what lies there is not computed again.
        num_threads: questions at once; no effect on any number.
        done: called after each part.

    Returns:
        The record that `patch_report.markdown` makes a text of.
    """
    own = np.array([half_of(patient_id) for patient_id in patches.patient_ids])
    check_no_leak(own, patches.patient_ids, patches.series_ids, "the halves")
    fields_hu = cut_patches(patches, settings.field_mm, settings.size_px)
    halves = []
    for half in HALVES:
        others = [run for run in runs if run.half != half]
        halves.append(
            _through_networks(half, patches, fields_hu, np.flatnonzero(own == half), others, settings, cache)
        )
        done()
    answers = answer_all(halves, settings, cache / "scores", num_threads, done)
    counts = {half.name: [len(half.patient_ids), len(np.unique(half.patient_ids))] for half in halves}
    return {
        "patches": {
            "digest": patches.digest,
            "nodules": len(patches),
            "patients": len(np.unique(patches.patient_ids)),
            "halves": {half: {"nodules": n, "patients": p} for half, (n, p) in counts.items()},
        },
        "settings": asdict(settings),
        **answers_record(answers),
        "runs": [_run_record(run) for run in runs],
    }


def _through_networks(
    half: str,
    patches: NodulePatches,
    fields_hu: np.ndarray,
    rows: np.ndarray,
    runs: list[TrainedRun],
    settings: PatchProbeSettings,
    cache: Path,
) -> Half:
    trained = {
        part: [load_backbone(latest_checkpoint(run.folder) / "backbone") for run in runs if run.part == part]
        for part in (PLAIN, GRAM)
    }
    twins = [random_twin(trained[PLAIN][0], seed) for seed in range(settings.num_random)]
    backbones = trained | {RANDOM: twins}
    spacing_mm = np.full((len(rows), 2), settings.field_mm / settings.size_px)
    images = {"patches": patches.digest, "half": half, "field_mm": settings.field_mm, "size_px": settings.size_px}

    def features(backbone: Backbone) -> dict[str, np.ndarray]:
        key = images | {"weights": backbone.digest, "processor": backbone.processor.to_json_string()}
        return cached(cache / "features", key, lambda: pooled_features(backbone, fields_hu[rows], spacing_mm))

    return Half(
        name=half,
        patient_ids=patches.patient_ids[rows],
        diameter_mm=patches.diameter_mm[rows],
        ratings={name: [values[row] for row in rows] for name, values in patches.ratings.items()},
        networks={name: [features(backbone) for backbone in found] for name, found in backbones.items()},
        pixels=fields_hu[rows].reshape(len(rows), -1),
        key=images | {"networks": {name: [b.digest for b in found] for name, found in backbones.items()}},
    )


def _run_record(run: TrainedRun) -> dict[str, Any]:
    """How a run ended: its CLS loss beside log K, and the alarms that sounded in it."""
    facts = learning_facts(read_run(run.folder), read_metrics(run.folder))
    path = run.folder / "alarms.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    names = ("cls_loss", "teacher_entropy", "effective_rank")
    return {
        "half": run.half,
        "seed": run.seed,
        "part": run.part,
        "steps": facts["last_step"],
        "log_k": round(facts["log_k"], 4),
        **{name: round(facts["final"][name], 4) for name in names},
        "alarms": sorted({json.loads(line)["alarm"] for line in lines}),
    }
