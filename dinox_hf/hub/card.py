"""The model card: facts of a run, filled into model_card/model.md.

A number that no file holds is not printed; a section without numbers says so.
"""

import math
import re
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .card_facts import CardFacts, metadata_of
from .card_stages import lineage_rows, stages_table
from .results import eval_results, results_section

NOT_MEASURED = "Not measured."
# Where the text of a licence stands that the Hub does not list.
LICENCE_LINKS = {"dinov3-license": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/"}
_CHECKOUT_TEMPLATES = Path(__file__).parents[2] / "model_card"
_PACKED_TEMPLATES = Path(__file__).parents[1] / "model_card"
# What the Hub must find in the metadata, and of which type.
_REQUIRED_METADATA = {"license": str, "library_name": str, "pipeline_tag": str, "tags": list}


def render_card(facts: CardFacts) -> str:
    """The whole README.md of a published model, its metadata checked.

    Raises:
        ValueError: if the metadata lacks what the Hub asks for.
    """
    sections = {
        "metadata": card_metadata(facts).to_yaml(),
        "name": facts.name,
        "summary": _summary(facts),
        "notice": _notice(facts),
        "training_data": _training_data(facts),
        "training": _training(facts),
        "results": results_section(facts.report) if facts.report else NOT_MEASURED,
        "lineage": _lineage(facts),
        "licence": _licence(facts),
    }
    text = Template(template("model.md")).substitute(sections | _snippet_words(facts))
    text = re.sub(r"\n{3,}", "\n\n", text)
    validate_metadata(text)
    return text


def card_metadata(facts: CardFacts) -> ModelCardData:
    """The metadata block: what the Hub searches and shows beside the card."""
    results: list[EvalResult] = eval_results(facts.report, facts.dataset_name) if facts.report else []
    return ModelCardData(
        **_licence_metadata(facts),
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["dinov3", "self-supervised", "medical", "ct", *(["synthetic-data"] if facts.is_synthetic else [])],
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def validate_metadata(text: str) -> None:
    """Check the metadata of a card without asking the Hub.

    Raises:
        ValueError: naming the field that is missing or of another type.
    """
    metadata = metadata_of(text)
    for name, kind in _REQUIRED_METADATA.items():
        if not isinstance(metadata.get(name), kind) or not metadata[name]:
            raise ValueError(
                f"The card's metadata needs `{name}`, a {kind.__name__}; found {metadata.get(name)!r}. "
                f"Add it between the two --- lines on top of the card."
            )
    for entry in metadata.get("model-index", []):
        for result in entry["results"]:
            for metric in result["metrics"]:
                if not isinstance(metric["value"], int | float) or math.isnan(metric["value"]):
                    raise ValueError(
                        f"A result in the card's model-index needs a number; found {metric['value']!r} for "
                        f"{metric.get('name', metric['type'])}. Leave out what was not measured."
                    )


def template(name: str) -> str:
    """A card template: from model_card/ of the checkout, or as packed into the wheel."""
    folder = _PACKED_TEMPLATES if _PACKED_TEMPLATES.is_dir() else _CHECKOUT_TEMPLATES
    return (folder / name).read_text(encoding="utf-8")


def _summary(facts: CardFacts) -> str:
    config = facts.config
    parameters = facts.run.get("lineage", {}).get("backbone_parameters")
    size = f"{parameters / 1e6:.1f} million parameters, " if parameters else ""
    return (
        f"A Vision Transformer for CT slices ({size}width {config['hidden_size']}, {config['num_hidden_layers']} "
        f"layers, patches of {config['patch_size']} pixels), trained without labels by the DINOv3 recipe on "
        f"{facts.dataset_name}."
    )


def _notice(facts: CardFacts) -> str:
    lines = ["> **Research use only.** Not for diagnosis; not a medical device."]
    if facts.is_synthetic:
        lines += [
            ">",
            "> **Trained on synthetic data.** The scans were simulated by a computer program. This model shows that "
            "the software works; it is of no use for patients.",
        ]
    if _is_metric(facts):
        lines += [
            ">",
            f"> **Counts in millimetres.** Plain transformers takes every image for "
            f"{facts.config['rope_extent_mm']:g} mm wide and high. Only our classes "
            f"(`trust_remote_code=True`) can be told the spacing of a slice.",
        ]
    return "\n".join(lines)


def _is_metric(facts: CardFacts) -> bool:
    return facts.config.get("rope_coordinates") == "metric"


def _snippet_words(facts: CardFacts) -> dict[str, Any]:
    """What the snippets say about this model: its channels, its windows, where patch tokens begin."""
    processor = facts.processor
    windows = [tuple(window) for window in processor["hu_windows"]]
    is_here = facts.repo == "."
    words = {
        "repo": facts.repo,
        "folder_hint": "The snippets run inside this folder; elsewhere, write its path for `.`." if is_here else "",
        **_scale_words(facts.run["crops"]["global_size"], processor.get("pixel_mm")),
        "spacing_argument": "spacing_mm=(0.7, 0.7), " if _is_metric(facts) or processor.get("pixel_mm") else "",
        "first_patch": 1 + facts.config["num_register_tokens"],
        "image_mean": processor["image_mean"],
        "image_std": processor["image_std"],
    }
    if processor["channels"] == "neighbours":
        level, width = windows[0]
        return words | {
            "channels_hint": "The three channels are three neighbouring slices through one window.",
            "slice_shape": "(3, 512, 512)",
            "slice_comment": "slices z-1, z, z+1; rows to posterior, columns to the patient's left",
            "windows": f"level, width = {level}, {width}",
            "windowed": "((slice_hu - level) / width + 0.5).clip(0, 1)",
        }
    return words | {
        "channels_hint": "The three channels are one slice through three windows.",
        "slice_shape": "(512, 512)",
        "slice_comment": "rows to posterior, columns to the patient's left",
        "windows": f"windows = {windows}  # level, width",
        "windowed": "np.stack([((slice_hu - level) / width + 0.5).clip(0, 1) for level, width in windows])",
    }


def _scale_words(crop_px: int, pixel_mm: float | None) -> dict[str, str]:
    """At what scale the network saw slices, and what the processor does to show them so again."""
    if pixel_mm is None:
        return {
            "scale_hint": f"training saw whole slices, in crops of {crop_px} pixels.",
            "resize_hint": f"resizes a slice to {crop_px} x {crop_px} pixels, as training saw it (name another `size` "
            f"for a finer grid),",
        }
    return {
        "scale_hint": f"training saw pixels of {pixel_mm:.3g} mm or less, in crops of {crop_px} pixels.",
        "resize_hint": f"resamples a slice of known spacing to the {pixel_mm:.3g} mm of training",
    }


def _training_data(facts: CardFacts) -> str:
    lineage = facts.run.get("lineage", {})
    rows = [("Data set", facts.dataset_name), ("Split", facts.run["data"].get("split"))]
    rows += [("Slices", lineage.get("data_num_slices")), ("Fingerprint", lineage.get("data_fingerprint"))]
    known = "" if facts.dataset else "\n\nThe data set's own card was not at hand: origin and licence are not known."
    return f"{facts_table(rows)}\n\n{_population(facts)}{known}"


def _population(facts: CardFacts) -> str:
    """Whom and what the training images show, as far as it is known."""
    if facts.is_synthetic:
        return "Simulated chest CT: no patient, no scanner, no population."
    if facts.dataset_name == "LIDC-IDRI":
        # Counted in the index of Imaging Data Commons (idc-index-data 25), modality CT of the collection lidc_idri.
        return (
            "The whole collection is 1,018 clinical chest CTs of 1,010 patients from seven academic centres in the "
            "United States. Scanners: GE (670), Siemens (205), Philips (74), Toshiba (69). Sex is recorded for 284 "
            "scans (144 female, 140 male), age for 207: how features differ between patients is not known."
        )
    return (
        "A built set records neither scanners nor age, sex and origin of its patients: how features differ between "
        "them is not known."
    )


def _training(facts: CardFacts) -> str:
    run, images = facts.run, facts.run.get("lineage", {}).get("images_per_step")
    gram_start = run.get("gram", {}).get("first_step")
    has_gram = gram_start is not None and gram_start < facts.step
    crops, lora = run["crops"], run.get("lora")
    # With stages before it, this run's own numbers are told apart from their total.
    here = f" in stage {len(facts.stages_before) + 1}" if facts.stages_before else ""
    own = facts_table(
        [
            ("Objective", "DINO + iBOT + KoLeo" + (f" + Gram anchoring from step {gram_start}" if has_gram else "")),
            ("Weights", "teacher (moving average of the student)"),
            ("Trained", f"LoRA of rank {lora['rank']}, merged into the weights it began with" if lora else None),
            (f"Updates{here}", f"{facts.step:,} of {run['steps']:,} planned"),
            (f"Images seen{here}", f"{facts.step * images:,} ({images} an update)" if images else None),
            ("Crops", f"2 of {crops['global_size']} px, {crops['num_local']} of {crops['local_size']} px"),
            ("Cut from", f"squares of {crops['field_mm']:g} mm" if crops.get("field_mm") else "whole slices"),
            (f"Time in the training loop{here}", _duration(facts.seconds)),
            ("Device", run.get("lineage", {}).get("device")),
            ("Precision", run.get("lineage", {}).get("precision")),
        ]
    )
    return "\n\n".join(part for part in (stages_table(facts), own) if part)


def _lineage(facts: CardFacts) -> str:
    lineage = facts.run.get("lineage", {})
    return facts_table(
        [
            ("Run", facts.config["dinox_run"]),
            ("dinox_hf commit", lineage.get("dinox_hf_commit")),
            ("Data fingerprint", lineage.get("data_fingerprint")),
            *lineage_rows(facts),
            ("Seed", facts.run.get("seed")),
            ("Processes", lineage.get("num_processes")),
            ("torch", lineage.get("torch")),
            ("transformers", facts.config.get("transformers_version")),
            ("Python", lineage.get("python")),
        ]
    )


def _licence(facts: CardFacts) -> str:
    data = facts.dataset.get("license", "other")
    told = f"The training data are under {data}." if data != "other" else "The data's licence is not known."
    if facts.first_weights is None:
        return f"The weights and the code beside them are under GPL-3.0. {told}"
    name, licence = facts.first_weights
    link = LICENCE_LINKS.get(licence)
    terms = f"licence `{licence}`{f' ({link})' if link else ''}" if licence else "licence, which is not known here"
    return (
        f"Training began with the weights of {name}. These weights are derived from them and stay under their "
        f"{terms}; the code beside them is under GPL-3.0. {told}"
    )


def _licence_metadata(facts: CardFacts) -> dict[str, str]:
    """GPL, unless training began with released weights: then theirs."""
    if facts.first_weights is None:
        return {"license": "gpl-3.0"}
    name, licence = facts.first_weights
    base = {"base_model": name} if "/" in name else {}
    link = {"license_link": LICENCE_LINKS[licence]} if licence in LICENCE_LINKS else {}
    return {"license": "other", "license_name": licence or "unknown", **link, **base}


def facts_table(rows: list[tuple[str, Any]]) -> str:
    """A table of two columns without names; what is None is left out."""
    known = [f"| {name} | {value} |" for name, value in rows if value is not None]
    return "\n".join(["| | |", "|---|---|", *known])


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"
