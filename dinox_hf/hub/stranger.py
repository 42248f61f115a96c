"""What a stranger gets out of an exported folder; export.py runs this file where dinox_hf cannot be imported.

    python stranger.py FOLDER EXPECTED.safetensors [plain]

EXPECTED holds the probe (`pixel_values`, `slice_hu`) and what the training checkpoint made of it. The answer is one
line of JSON: for each way of loading the class that came and the largest absolute difference of its numbers. With
`plain` the folder carries no code of ours, and only what needs none is tried.

A backbone is loaded by its class: AutoBackbone.from_pretrained of transformers 5.23 takes whatever it is given for an
id, asks the Hub for it before it opens a file, and so knows no folder, not even one of transformers' own.
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, DINOv3ViTBackbone
from transformers.dynamic_module_utils import get_class_from_dynamic_module


def main(folder: str, expected_file: str, code: str = "with code") -> None:
    """Load the folder with and without trust in its code, and print how far each answer is from the expected one."""
    expected = load_file(expected_file)
    answers = [
        {"way": "AutoModel", **model_answer(folder, expected, trust=False)},
        {"way": "DINOv3ViTBackbone", **backbone_answer(folder, expected, trust=False)},
    ]
    if code != "plain":
        answers += [
            {"way": "AutoModel, trust_remote_code", **model_answer(folder, expected, trust=True)},
            {"way": "Dinov3CTBackbone, trust_remote_code", **backbone_answer(folder, expected, trust=True)},
            {"way": "AutoModelForImageClassification, trust_remote_code", **classifier_answer(folder, expected)},
            {"way": "AutoImageProcessor, trust_remote_code", **processor_answer(folder, expected)},
        ]
    print(json.dumps(answers))


@torch.no_grad()
def model_answer(folder: str, expected: dict[str, torch.Tensor], trust: bool) -> dict:
    """Tokens and pooled output of the probe; `unmatched` lists weights that the class lacks or that it misses.

    A network with metric coordinates is told the spacing of the probe as well, by trusted code only.
    """
    model, loading = AutoModel.from_pretrained(
        folder, trust_remote_code=trust, dtype=torch.float32, output_loading_info=True
    )
    output = model.eval()(expected["pixel_values"])
    pairs = [(output.last_hidden_state, expected["tokens"]), (output.pooler_output, expected["pooled"])]
    if trust and "spacing_mm" in expected:
        told = model(expected["pixel_values"], spacing_mm=expected["spacing_mm"])
        pairs.append((told.last_hidden_state, expected["metric_tokens"]))
    return {
        "class": type(model).__name__,
        "largest_difference": max((found - wanted).abs().max().item() for found, wanted in pairs),
        "unmatched": unmatched(loading),
    }


@torch.no_grad()
def backbone_answer(folder: str, expected: dict[str, torch.Tensor], trust: bool) -> dict:
    """Two feature maps of the probe, of which the last holds the patch tokens."""
    last = AutoConfig.from_pretrained(folder, trust_remote_code=trust).stage_names[-1]
    ours = "modeling_dinov3_ct.Dinov3CTBackbone"
    backbone_class = get_class_from_dynamic_module(ours, folder) if trust else DINOv3ViTBackbone
    model, loading = backbone_class.from_pretrained(
        folder, out_features=["stem", last], dtype=torch.float32, output_loading_info=True
    )
    stem, last_map = model.eval()(expected["pixel_values"]).feature_maps
    num_patches = last_map.shape[-2] * last_map.shape[-1]
    wanted = expected["tokens"][:, -num_patches:].mT.unflatten(-1, last_map.shape[-2:])
    if stem.shape != last_map.shape:
        raise ValueError(f"Two maps of one network should have one shape; found {stem.shape} and {last_map.shape}.")
    return {
        "class": type(model).__name__,
        "largest_difference": (last_map - wanted).abs().max().item(),
        "unmatched": unmatched(loading),
    }


@torch.no_grad()
def classifier_answer(folder: str, expected: dict[str, torch.Tensor]) -> dict:
    """Tokens of the backbone under a new classification head, whose own weights are the only ones that may be new."""
    model, loading = AutoModelForImageClassification.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True
    )
    tokens = model.eval().base_model(expected["pixel_values"]).last_hidden_state
    new = [name for name in loading["missing_keys"] if not name.startswith("classifier.")]
    return {
        "class": type(model).__name__,
        "largest_difference": (tokens - expected["tokens"]).abs().max().item(),
        "unmatched": [*new, *loading["unexpected_keys"]],
    }


def processor_answer(folder: str, expected: dict[str, torch.Tensor]) -> dict:
    """Pixel values of a slice in Hounsfield units."""
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    pixel_values = processor(expected["slice_hu"].numpy(), return_tensors="pt").pixel_values
    difference = (pixel_values - expected["slice_pixel_values"]).abs().max().item()
    return {"class": type(processor).__name__, "largest_difference": difference, "unmatched": []}


def unmatched(loading: dict) -> list[str]:
    """Weights that the class lacks, misses or has in another shape."""
    return [*loading["missing_keys"], *loading["unexpected_keys"], *map(str, loading["mismatched_keys"])]


if __name__ == "__main__":
    main(*sys.argv[1:])
