"""A finished run in small: random weights, and every file that an export reads."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from dinox_hf.data.sources.lidc_idri import collection_of
from dinox_hf.evaluation.backbones.learning import learning_criteria, learning_facts
from dinox_hf.evaluation.probes.linear_probe import ProbeScore
from dinox_hf.evaluation.probes.probe_suite import (
    BACKBONE,
    BOTH_SIZE,
    NO_POOLING,
    PIXELS,
    RANDOM,
    SHUFFLED,
    SIZE,
    Answer,
    probe_record,
    questions,
)
from dinox_hf.hub.publish import publish_run
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.pretraining.config import DataConfig, PretrainConfig
from dinox_hf.pretraining.config_file import to_dict

LINEAGE = {
    "dinox_hf_commit": "0123456789abcdef0123456789abcdef01234567",
    "torch": "2.13.0",
    "device": "cpu",
    "images_per_step": 8,
    "backbone_parameters": 456_000,
    "data_fingerprint": "f00dfeed",
    "data_num_slices": 120,
}
PHANTOM = collection_of(["PHANTOM-0001"])


def make_report(checkpoint):
    """A report with one probe measured and one not, in the words of the evaluation itself."""

    def probe(question, not_measured=None):
        resampled = np.linspace(0.6, 0.8, 101)
        names = [(BACKBONE, "cls"), (BACKBONE, "mean"), (RANDOM, "cls"), (RANDOM, "mean")]
        names += [(name, NO_POOLING) for name in (SIZE, BOTH_SIZE, PIXELS)] + [(SHUFFLED, "cls")]
        aucs = np.linspace(0.9, 0.5, len(names)).round(3)
        scores = {
            name: ProbeScore(auc, auc - 0.04, auc + 0.04, (auc,), resampled)
            for name, auc in zip(names, aucs, strict=True)
        }
        answer = Answer(question, 40, 20, 12, not_measured, {} if not_measured else scores)
        # Gains compare poolings that this small report does not hold.
        return probe_record(dataclasses.replace(answer, not_measured="x")) | {"not_measured": not_measured}

    map_scores = {"num_nodules": 40, "auprc": 0.21, "auprc_interval": [0.15, 0.27], "pointing": 0.3, "chance": 0.08}
    facts = learning_facts({"dino_head": {"num_prototypes": 256}}, [{"step": 20, "cls_loss": 5.0}])
    first, second = questions()[:2]
    return {
        "backbone": {"checkpoint": checkpoint},
        "data": {"num_nodules": 40, "num_patients": 12, "seen_in_pretraining": "Seen in pretraining, without labels."},
        "probes": [probe(first), probe(second, not_measured="label 1 has 3 nodules of 2 patients")],
        "cls_gain": {"gain": 0.057, "interval": [0.01, 0.1], "pooling": "cls", "attributes": ["margin"]},
        "attention": [{"field_mm": 48.0, "maps": {"backbone, mean of heads": map_scores, "centre prior": map_scores}}],
        "collapse": {"slices": {name: {"num_images": 120, "effective_rank": 23.4} for name in (BACKBONE, RANDOM)}},
        "figures": {"attention": "figures/attention.png"},
        "learning": facts | {"criteria": learning_criteria(facts, 23.4, None)},
    }


def make_run(folder, **model_overrides):
    """Write a run folder whose model is far from its initial values, so that a lost weight would show."""
    torch.manual_seed(0)
    model = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", layerscale_value=1.0, **model_overrides))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    checkpoint = folder / "checkpoints" / "step_00000020"
    model.save_pretrained(checkpoint / "backbone")
    Dinov3CTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(checkpoint / "backbone")
    (checkpoint / "state.json").write_text(json.dumps({"step": 20}))

    dataset = folder.parent / "dataset"
    dataset.mkdir(exist_ok=True)
    metadata = {"pretty_name": PHANTOM["name"], "license": PHANTOM["license"]}
    (dataset / "README.md").write_text(f"---\n{yaml.safe_dump(metadata)}---\n\n# Phantom\n")
    config = PretrainConfig(output=str(folder), steps=20, data=DataConfig(folder=str(dataset)))
    (folder / "run.yaml").write_text(yaml.safe_dump(to_dict(config) | {"lineage": LINEAGE}))
    lines = [{"step": 10, "images_per_second": 4.0}, {"step": 20, "images_per_second": 8.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = folder / "evaluation" / "figures"
    figures.mkdir(parents=True)
    (figures.parent / "report.json").write_text(json.dumps(make_report("step_00000020")))
    Image.new("RGB", (8, 8)).save(figures / "attention.png")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def published(finished_run):
    """The run as a Hub folder, and what the check in the clean process said."""
    out = finished_run.parent / "tiny-ct"
    return out, publish_run(finished_run, out)
