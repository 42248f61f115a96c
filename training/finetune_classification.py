"""Train a malignancy head: python training/finetune_classification.py BACKBONE DATASET [CONFIG.yaml] [--a.b=c …].

BACKBONE is a run of training/pretrain.py, a published folder, an id on the Hub, or released DINOv3 weights; DATASET a
built set with nodules. Patients are dealt into training, validation, which ends the training, and test, which is
looked at once. The same command gives the same head; Ctrl-C keeps the best one so far.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from dinox_hf.console import run_command
from dinox_hf.evaluation.backbones.features import Backbone
from dinox_hf.evaluation.backbones.learning import read_run
from dinox_hf.evaluation.cohorts.labelled_nodules import NoduleCrops, NoduleEpoch, deal_cohort
from dinox_hf.evaluation.cohorts.nodules import ScanSet, read_nodules
from dinox_hf.evaluation.heads.head_config import FinetuneConfig, class_weights, lr_share
from dinox_hf.evaluation.heads.head_scores import HEAD, control_scores, log_loss, result_lines, score_test
from dinox_hf.hub.head_check import check_in_clean_process
from dinox_hf.hub.head_facts import base_facts, head_report
from dinox_hf.hub.head_folder import FINISHED, HeadFolder
from dinox_hf.metrics.auroc import auroc
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTForImageClassification
from dinox_hf.pretraining.config_file import load_config, to_dict
from dinox_hf.pretraining.precision import resolve_precision
from dinox_hf.pretraining.released_weights import read_weights
from dinox_hf.pretraining.signals import StopSignals
from dinox_hf.tasks.adaptation import adapt, parameter_groups
from dinox_hf.tasks.adapter_files import LOCAL_BASE, load_adapter
from dinox_hf.tasks.backbone import build_backbone, read_processor
from dinox_hf.tasks.classification import build_classifier
from dinox_hf.tasks.update import update

CLASS_NAMES = ("benign", "suspicious")


def main(config: FinetuneConfig) -> Path:
    """One head, from the labels to the card; returns its folder."""
    folder = HeadFolder(Path(config.output), config.adaptation.is_adapter)
    accelerator = Accelerator(mixed_precision=resolve_precision(config.training.precision))
    weights = read_weights(config.backbone)
    backbone = build_backbone(weights.tensors, weights.config)
    run = read_run(Path(config.backbone))
    size_px = config.crops.size_px or (run["crops"]["global_size"] if run else None)
    processor = read_processor(weights.folder, size_px, backbone.config.patch_size)
    cohort = deal_cohort(read_nodules(config.data.folder), config.data)
    crops = NoduleCrops(ScanSet(config.data.folder), cohort, processor, config.crops, config.head)
    # Frozen features come first: if they are no numbers, nothing is trained on them.
    controls = control_scores(Backbone(backbone.to(accelerator.device), processor, ""), crops, config.head.pooling)

    set_seed(config.seed)  # of the head's first weights
    classifier = build_classifier(backbone.cpu(), config.head, CLASS_NAMES)
    is_main, base = accelerator.is_main_process, ""
    if is_main:
        folder.begin(to_dict(config))
        base = folder.choose_base(classifier, processor, weights.folder, config.backbone)
    model = adapt(classifier, config.adaptation)
    facts = base_facts(config.backbone, base, weights.provenance)
    report = head_report(config, facts, crops, model, classifier.config)

    report = train(config, accelerator, model, crops, folder, report)
    if is_main and report["status"] == FINISHED:
        # What is tested is what was saved, read back.
        trained = read_back(folder, build_classifier(backbone, config.head, CLASS_NAMES)).to(accelerator.device)
        scores = {HEAD: predict(trained, crops, np.arange(len(cohort.labels)), config)}
        report["test"] = score_test(cohort, scores | controls)
        some = next(iter(DataLoader(NoduleEpoch(crops, cohort.indices("test")), batch_size=4)))
        report["loaded_elsewhere"] = check_in_clean_process(folder.head, trained.cpu(), some)
    if is_main and report["best_epoch"]:
        folder.finish(report, config.base_id)
    return folder.head


def train(
    config: FinetuneConfig,
    accelerator: Accelerator,
    model: nn.Module,
    crops: NoduleCrops,
    folder: HeadFolder,
    report: dict[str, Any],
) -> dict[str, Any]:
    """Epochs until the validation part gets no better; every better head is saved at once.

    Better is a higher AUC, or the same with a smaller log loss.

    Returns:
        The report of the head that is saved; its status is "finished", or "interrupted" after a signal.
    """
    training, cohort = config.training, crops.cohort
    validation = cohort.indices("validation")
    weight = class_weights(cohort.labels[cohort.indices("train")], training.class_weights).to(accelerator.device)
    optimizer = AdamW(parameter_groups(model, config.lr, training.head_lr, training.weight_decay))
    full_rates = [group["lr"] for group in optimizer.param_groups]
    model, optimizer = accelerator.prepare(model, optimizer)
    stop = StopSignals(accelerator.print)
    progress = tqdm(range(1, training.epochs + 1), "finetune", unit="epoch", disable=not accelerator.is_main_process)
    best = (-1.0, 0.0)
    with stop.listening():
        for epoch in progress:
            batches, loss = accelerator.prepare(training_batches(config, crops, epoch)), 0.0
            for step, batch in enumerate(batches, start=1):
                share = lr_share(epoch - 1 + step / len(batches), training)
                for group, rate in zip(optimizer.param_groups, full_rates, strict=True):
                    group["lr"] = share * rate
                loss += training_step(accelerator, model, optimizer, batch, weight, training.max_grad_norm) / len(
                    batches
                )
                if stop.received:
                    return report | {"status": "interrupted"}
            report["epochs"] = epoch
            scores = predict(accelerator.unwrap_model(model), crops, validation, config)
            found = (auroc(cohort.labels[validation], scores), -log_loss(cohort.labels[validation], scores))
            if found > best:
                best = found
                report |= {"best_epoch": epoch, "validation_auc": found[0]}
                if accelerator.is_main_process:
                    folder.save(accelerator.unwrap_model(model), crops.processor, report)
            if accelerator.is_main_process:
                folder.log(
                    {"epoch": epoch, "loss": loss, "validation_auc": found[0], "validation_log_loss": -found[1]}
                )
            progress.set_postfix_str(f"loss {loss:.3f}, validation AUC {found[0]:.3f}, best {best[0]:.3f}")
            if epoch - report["best_epoch"] >= training.patience:
                break
    return report | {"status": FINISHED}


def training_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    batch: dict[str, Tensor],
    weight: Tensor,
    max_grad_norm: float,
) -> float:
    """One update from one batch; returns its loss."""
    model.train()
    logits = model(pixel_values=batch["pixel_values"], spacing_mm=batch["spacing_mm"]).logits
    loss = F.cross_entropy(logits.float(), batch["labels"], weight)
    return update(accelerator, model, optimizer, loss, max_grad_norm)


@torch.no_grad()
def predict(model: nn.Module, crops: NoduleCrops, indices: np.ndarray, config: FinetuneConfig) -> np.ndarray:
    """(n,) logit of the second class over the first, of unvaried pixels."""
    model.eval()
    device = next(model.parameters()).device
    loader = DataLoader(
        NoduleEpoch(crops, indices), config.training.batch_size, num_workers=config.training.num_workers
    )
    logits = []
    for batch in loader:
        inputs = {name: batch[name].to(device) for name in ("pixel_values", "spacing_mm")}
        logits.append(model(**inputs).logits.double().cpu())
    return torch.cat(logits).diff(dim=1)[:, 0].numpy()


def read_back(folder: HeadFolder, untrained: Dinov3CTForImageClassification) -> nn.Module:
    """The head that was saved: an adapter on the untrained classifier, or a whole model."""
    if folder.is_adapter:
        return load_adapter(untrained, folder.head)
    return Dinov3CTForImageClassification.from_pretrained(folder.head)


def training_batches(config: FinetuneConfig, crops: NoduleCrops, epoch: int) -> DataLoader:
    """The training part once, in an order and a variation that come from (seed, epoch)."""
    order = np.random.default_rng([config.seed, epoch]).permutation(crops.cohort.indices("train"))
    return DataLoader(
        NoduleEpoch(crops, order, config.seed, epoch),
        config.training.batch_size,
        num_workers=config.training.num_workers,
    )


def read_arguments(arguments: list[str]) -> FinetuneConfig:
    """`BACKBONE DATASET [CONFIG.yaml] [--a.b=c …]`; both names may stand in the file instead."""
    names = [argument for argument in arguments if not argument.startswith("--")]
    files = [name for name in names if name.endswith((".yaml", ".yml"))]
    places = [name for name in names if name not in files]
    if len(files) > 1 or len(places) not in (0, 2):
        raise ValueError(
            f"Expected BACKBONE DATASET [CONFIG.yaml] [--a.b=c …]; found {' '.join(names) or 'no names'}. Name a "
            f"backbone and a built set; overrides are written --a.b=c."
        )
    named = [f"--{name}={place}" for name, place in zip(("backbone", "data.folder"), places, strict=False)]
    options = [argument for argument in arguments if argument.startswith("--")]
    config = load_config(FinetuneConfig, files[0] if files else None, [*named, *options])
    if not config.backbone or not config.data.folder:
        raise ValueError(
            f"A head needs a backbone and a built set; found backbone={config.backbone!r} and "
            f"data.folder={config.data.folder!r}. Run training/finetune_classification.py BACKBONE DATASET."
        )
    return config


def command() -> None:
    """Entry point of the script."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    disable_progress_bar()  # of transformers, which would draw one for every checkpoint
    config = read_arguments(sys.argv[1:])
    head = main(config)
    if (head / "report.json").is_file():
        report = json.loads((head / "report.json").read_text())
        print(f"\n{result_lines(report)}")
        print(f"\nHead: {head} (card: README.md, numbers: report.json)")
        if report["base"]["path"] == LOCAL_BASE:
            print(f"Base: {head.parent / 'base'}, which the adapter names as {LOCAL_BASE}; move both together.")
            print("      For the Hub, upload it and train with --base_id=NAME/OF-BASE.")


if __name__ == "__main__":
    run_command(command)
