"""What a stranger gets out of an exported folder; export.py runs this file where dinox_hf cannot be imported.

    python stranger.py FOLDER EXPECTED.safetensors

EXPECTED holds the probe (`pixel_values`, `slice_hu`) and what the training checkpoint made of it. The answer is one
line of JSON: for each way of loading the class that came and the largest absolute difference of its numbers.
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification


def main(folder: str, expected_file: str) -> None:
    """Load the folder with and without trust in its code, and print how far each answer is from the expected one."""
    expected = load_file(expected_file)
    answers = [
        {"way": "AutoModel", **model_answer(folder, expected, trust=False)},
        {"way": "AutoModel, trust_remote_code", **model_answer(folder, expected, trust=True)},
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
    unmatched = [*loading["missing_keys"], *loading["unexpected_keys"], *map(str, loading["mismatched_keys"])]
    return {
        "class": type(model).__name__,
        "largest_difference": max((found - wanted).abs().max().item() for found, wanted in pairs),
        "unmatched": unmatched,
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


if __name__ == "__main__":
    main(*sys.argv[1:])
