"""Train a segmentation head: python training/finetune_segmentation.py BACKBONE DATASET [CONFIG.yaml] [--a.b=c …].

BACKBONE is a run of training/pretrain.py, a published folder, an id on the Hub, or released DINOv3 weights; DATASET a
built set with nodules. Patients are dealt into training, validation, which ends the training, and test, which is
looked at once, beside the same head trained on random weights and beside a disc.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from dinox_hf.console import run_command
from dinox_hf.evaluation.backbones.learning import read_run
from dinox_hf.evaluation.cohorts.labelled_nodules import NoduleCrops
from dinox_hf.evaluation.cohorts.nodule_masks import MaskEpoch, deal_masks
from dinox_hf.evaluation.cohorts.nodules import ScanSet, read_nodules
from dinox_hf.evaluation.heads.head_config import lr_share
from dinox_hf.evaluation.heads.mask_scores import (
    Masks,
    case_rows,
    disc,
    draw_overlays,
    mask_table,
    no_mask_interval,
    write_cases,
)
from dinox_hf.evaluation.heads.segmentation_config import SegmentationConfig
from dinox_hf.evaluation.pages.tables import interval_text
from dinox_hf.hub.head_facts import base_facts
from dinox_hf.hub.head_folder import FINISHED, HeadFolder
from dinox_hf.hub.publish import made_whole
from dinox_hf.hub.segmenter_card import segmenter_report, write_segmenter_report
from dinox_hf.losses.segmentation import segmentation_loss
from dinox_hf.metrics.overlap import dice
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.pretraining.config_file import load_config, to_dict
from dinox_hf.pretraining.precision import resolve_precision
from dinox_hf.pretraining.released_weights import read_weights
from dinox_hf.tasks.adaptation import adapt, parameter_groups
from dinox_hf.tasks.adapter_files import LOCAL_BASE
from dinox_hf.tasks.backbone import build_backbone, read_processor
from dinox_hf.tasks.classification import HeadConfig
from dinox_hf.tasks.segmentation import Dinov3CTForSegmentation, load_segmenter, save_segmenter
from dinox_hf.tasks.update import update

NUM_CLASSES = 2  # background and nodule
HEAD, RANDOM, DISC = "head", "random weights, same head", "disc of the mean size"


def main(config: SegmentationConfig) -> Path:
    """One head and its control, from the outlines to the overlays; returns the head's folder."""
    folder = HeadFolder(Path(config.output), is_adapter=True)
    accelerator = Accelerator(mixed_precision=resolve_precision(config.training.precision))
    weights = read_weights(config.backbone)
    backbone = build_backbone(weights.tensors, weights.config)
    run = read_run(Path(config.backbone))
    size_px = config.crops.size_px or (run["crops"]["global_size"] if run else None)
    processor = read_processor(weights.folder, size_px, backbone.config.patch_size)
    cohort = deal_masks(read_nodules(config.data.folder), config.data)
    crops = NoduleCrops(ScanSet(config.data.folder), cohort, processor, config.crops, HeadConfig())
    if accelerator.is_main_process:
        folder.begin(to_dict(config))
        with made_whole((folder.output / "base").resolve()) as building:
            backbone.save_pretrained(building)
            processor.save_pretrained(building)

    set_seed(config.seed)
    networks = {RANDOM: Dinov3CTModel(backbone.config), HEAD: backbone}
    facts = base_facts(config.backbone, LOCAL_BASE, weights.provenance)
    segmenters, best = {}, {}
    for name, network in networks.items():
        set_seed(config.seed)  # both begin with the same decoder
        model = adapt(Dinov3CTForSegmentation(network, config.decoder, NUM_CLASSES), config.adaptation)
        report = segmenter_report(config, facts, crops, model) if name == HEAD else None
        best[name] = train(config, accelerator, model, crops, folder, report)
        segmenters[name] = model
    if not accelerator.is_main_process:
        return folder.head
    # What is tested is what was saved, read back.
    segmenters[HEAD] = load_segmenter(folder.head).to(accelerator.device)
    rows = test(config, segmenters, crops, folder)
    report |= {"status": FINISHED, "best": best[HEAD], "best_of_control": best[RANDOM], "num_cases": len(rows)}
    report |= {"test": mask_table(rows), "no_interval": no_mask_interval(rows)}
    write_segmenter_report(folder.head, report)
    return folder.head


def train(
    config: SegmentationConfig,
    accelerator: Accelerator,
    model: nn.Module,
    crops: NoduleCrops,
    folder: HeadFolder,
    report: dict[str, Any] | None,
) -> dict[str, float]:
    """Epochs until the mean Dice of the validation part stops rising; the best weights are saved, or put back.

    Args:
        config: how long and how fast.
        accelerator: places the model.
        model: of `adapt`.
        crops: the nodules.
        folder: where the head is saved, at every better epoch.
        report: of the head, saved with it; None for the control, which is not saved but gets its best weights back.
    """
    training, validation = config.training, crops.cohort.indices("validation")
    optimizer = AdamW(parameter_groups(model, config.lr, training.head_lr, training.weight_decay))
    full_rates = [group["lr"] for group in optimizer.param_groups]
    model, optimizer = accelerator.prepare(model, optimizer)
    network = accelerator.unwrap_model(model)
    progress = tqdm(
        range(1, training.epochs + 1),
        "control" if report is None else "head",
        unit="epoch",
        disable=not accelerator.is_main_process,
    )
    best, kept = {"epoch": 0, "validation_dice": -1.0}, {}
    for epoch in progress:
        order = np.random.default_rng([config.seed, epoch]).permutation(crops.cohort.indices("train"))
        batches = accelerator.prepare(batches_of(MaskEpoch(crops, order, config.seed, epoch), config))
        loss = 0.0
        for step, batch in enumerate(batches, start=1):
            for group, rate in zip(optimizer.param_groups, full_rates, strict=True):
                group["lr"] = rate * lr_share(epoch - 1 + step / len(batches), training)
            loss += training_step(accelerator, model, optimizer, batch, training.max_grad_norm) / len(batches)
        _, truth, predicted = predict(network, crops, validation, config)
        found = float(np.mean([dice(p, t) for p, t in zip(predicted, truth, strict=True)]))
        if found > best["validation_dice"]:
            best = {"epoch": epoch, "validation_dice": found}
            if report is None:
                kept = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            elif accelerator.is_main_process:
                with made_whole(folder.head.resolve()) as building:
                    save_segmenter(network, building, LOCAL_BASE, config.decoder, NUM_CLASSES)
                    write_segmenter_report(building, report | {"best": best})
        if accelerator.is_main_process:
            folder.log({"head": report is not None, "epoch": epoch, "loss": loss, "validation_dice": found})
        progress.set_postfix_str(f"loss {loss:.3f}, validation Dice {found:.3f}, best {best['validation_dice']:.3f}")
        if epoch - best["epoch"] >= training.patience:
            break
    if kept:
        network.load_state_dict(kept)
    return best


def training_step(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, batch: dict[str, Tensor], max_grad_norm: float
) -> float:
    """One update from one batch; returns its loss."""
    model.train()
    loss = segmentation_loss(
        model(pixel_values=batch["pixel_values"], spacing_mm=batch["spacing_mm"]), batch["labels"]
    )
    return update(accelerator, model, optimizer, loss, max_grad_norm)


def test(
    config: SegmentationConfig, segmenters: dict[str, nn.Module], crops: NoduleCrops, folder: HeadFolder
) -> list[dict]:
    """Outline the test part once with every network and with a disc; writes cases.csv and overlays.png."""
    indices, predicted = crops.cohort.indices("test"), {}
    for name in (HEAD, RANDOM):
        pictures, truth, predicted[name] = predict(segmenters[name], crops, indices, config)
    areas = [
        float(example["labels"].sum()) for example in MaskEpoch(crops, crops.cohort.indices("train"), config.seed)
    ]
    predicted[DISC] = np.broadcast_to(disc(truth.shape[1:], float(np.mean(areas))), truth.shape)
    masks = Masks(indices, pictures, truth, predicted)
    rows = case_rows(crops.cohort, masks)
    write_cases(rows, folder.head / "cases.csv")
    draw_overlays(masks, rows, HEAD, folder.head / "overlays.png")
    return rows


@torch.no_grad()
def predict(
    model: nn.Module, crops: NoduleCrops, indices: np.ndarray, config: SegmentationConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First channels (n, H, W), outlines and predictions (n, H, W) bool of some nodules."""
    model.eval()
    device = next(model.parameters()).device
    pictures, truth, predicted = [], [], []
    for batch in batches_of(MaskEpoch(crops, indices, config.seed), config):
        logits = model(pixel_values=batch["pixel_values"].to(device), spacing_mm=batch["spacing_mm"].to(device))
        pictures.append(batch["pixel_values"][:, 0])
        truth.append(batch["labels"].bool())
        predicted.append(logits.argmax(dim=1).bool().cpu())
    return tuple(torch.cat(parts).numpy() for parts in (pictures, truth, predicted))


def batches_of(nodules: MaskEpoch, config: SegmentationConfig) -> DataLoader:
    """Batches in the order given."""
    return DataLoader(nodules, config.training.batch_size, num_workers=config.training.num_workers)


def read_arguments(arguments: list[str]) -> SegmentationConfig:
    """`BACKBONE DATASET [CONFIG.yaml] [--a.b=c …]`."""
    names = [argument for argument in arguments if not argument.startswith("--")]
    files = [name for name in names if name.endswith((".yaml", ".yml"))]
    places = [name for name in names if name not in files]
    if len(files) > 1 or len(places) != 2:
        raise ValueError(
            f"Expected BACKBONE DATASET [CONFIG.yaml] [--a.b=c …]; found {' '.join(names) or 'no names'}. Name a "
            f"backbone and a built set; overrides are written --a.b=c."
        )
    named = [f"--{name}={place}" for name, place in zip(("backbone", "data.folder"), places, strict=True)]
    options = [argument for argument in arguments if argument.startswith("--")]
    return load_config(SegmentationConfig, files[0] if files else None, [*named, *options])


def command() -> None:
    """Entry point of the script."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    disable_progress_bar()  # of transformers, which would draw one for every checkpoint
    head = main(read_arguments(sys.argv[1:]))
    report = json.loads((head / "report.json").read_text())
    print(f"\n{report['num_cases']} nodules of the test part, mean with a 95 % interval by patient:")
    for record in report["test"]:
        bounds = interval_text(record["interval"]) if record["interval"] else "none"
        print(f"  {record['score']:<36} {record['mean']:.3f}   {bounds}")
    if report["no_interval"]:
        print(f"  {report['no_interval']}")
    print(f"\nHead: {head} (card: README.md, numbers: report.json, cases.csv; overlays.png)")


if __name__ == "__main__":
    run_command(command)
