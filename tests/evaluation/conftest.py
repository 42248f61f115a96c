import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset

from dinox_hf.data.schema import CHARACTERISTICS, NODULE_FEATURES, SLICE_FEATURES
from dinox_hf.model.configuration_dinov3_ct import Dinov3CTConfig
from dinox_hf.model.image_processing_dinov3_ct import Dinov3CTImageProcessor
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel

NODULE_INDEX = (1.0, 20.0, 30.0)  # (z, y, x)
RADIUS_PX = 4


def write_set(folder: Path, num_patients: int, with_nodules: bool = True) -> Path:
    """A built set: each patient has one series of three slices with one round nodule; every other one is dense."""
    slices, nodules = [], []
    for number in range(num_patients):
        rng = np.random.default_rng(number)
        is_dense = number % 2 == 1
        voxels = rng.normal(-850, 20, (3, 48, 64))
        rows, columns = np.mgrid[:48, :64]
        mask = (rows - NODULE_INDEX[1]) ** 2 + (columns - NODULE_INDEX[2]) ** 2 <= RADIUS_PX**2
        voxels[:, mask] = 50 if is_dense else -500
        names = {"patient_id": f"P{number:02d}", "series_id": f"S{number:02d}"}
        for z in range(3):
            geometry = {"slice_index": z, "num_slices": 3, "z_mm": 2.0 * z, "spacing_mm": [2.0, 1.0, 1.0]}
            image = voxels[z].astype(np.int16).tolist()
            slices.append({"image": image, "slice_uid": "", "padding_hu": None, "modality": "ct", **names, **geometry})
        ratings = {name: [3, 3, 3, 3] for name in CHARACTERISTICS}
        ratings |= {
            "malignancy": [5, 4, 5, 4] if is_dense else [1, 2, 1, 2],
            "texture": [5] * 4 if is_dense else [2] * 4,
        }
        top, left = int(NODULE_INDEX[1]) - RADIUS_PX, int(NODULE_INDEX[2]) - RADIUS_PX
        box = mask[top : top + 2 * RADIUS_PX + 1, left : left + 2 * RADIUS_PX + 1].astype(np.uint8)
        nodules.append(
            {"nodule_id": f"S{number:02d}/1", "diameter_mm": 8.0 + rng.normal(), "num_readers": 4}
            | {"centre_index": list(NODULE_INDEX), "first_slice": 1, "last_slice": 1, "mask_start": [1, top, left]}
            | {"mask": [box.tolist()], **names, **ratings}
        )
    tables = {"slices": (slices, SLICE_FEATURES)} | ({"nodules": (nodules, NODULE_FEATURES)} if with_nodules else {})
    configs = []
    for name, (table, features) in tables.items():
        (folder / name).mkdir(parents=True)
        Dataset.from_list(table, features=features).to_parquet(folder / name / "train-00000-of-00001.parquet")
        configs.append({"config_name": name, "data_files": [{"split": "train", "path": f"{name}/train-*.parquet"}]})
    configs[0]["default"] = True
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return folder


def write_run(folder: Path, data: Path) -> Path:
    """A run folder as pretraining leaves it, with a backbone of random weights."""
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    checkpoint = folder / "checkpoints" / "step_00000020"
    Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", **sizes)).save_pretrained(checkpoint / "backbone")
    Dinov3CTImageProcessor().save_pretrained(checkpoint / "backbone")
    (checkpoint / "state.json").write_text('{"step": 20}')
    config = {"data": {"folder": str(data), "split": "train"}, "crops": {"global_size": 24}}
    (folder / "run.yaml").write_text(yaml.safe_dump(config | {"dino_head": {"num_prototypes": 64}}))
    steps = [{"step": s, "cls_loss": 4.0, "teacher_entropy": 4.1, "effective_rank": 9.0, "lr": 1e-3} for s in (10, 20)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    return folder


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "tiny", num_patients=24)


@pytest.fixture
def tiny_run(tmp_path, tiny_set) -> Path:
    return write_run(tmp_path / "run", tiny_set)
