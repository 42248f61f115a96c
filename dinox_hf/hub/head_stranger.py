"""What a stranger gets out of a trained head; head_check.py runs this file where dinox_hf cannot be imported.

    cd FOLDER && python head_stranger.py EXPECTED.safetensors

EXPECTED holds `pixel_values`, `spacing_mm` and the `logits` of the head as it was trained. The answer is one line of
JSON: for each way of loading the largest absolute difference of the logits.
"""

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification


def main(expected_file: str) -> None:
    """Load the current folder in every way that its card shows, and print how far each answer is off."""
    expected = load_file(expected_file)
    models = {"AutoModelForImageClassification, trust_remote_code": load(".")}
    config_file = Path("adapter_config.json")
    if config_file.is_file():
        base = json.loads(config_file.read_text())["base_model_name_or_path"]
        adapted = PeftModel.from_pretrained(load(base), ".")
        models["PeftModel on its base"] = adapted
    answers = [answer(way, model, expected) for way, model in models.items()]
    if config_file.is_file():
        answers.append(answer("merged into its base", adapted.merge_and_unload(), expected))
    print(json.dumps(answers))


def load(folder: str) -> torch.nn.Module:
    """A classifier in float32, by the code that lies beside its weights."""
    return AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)


@torch.no_grad()
def answer(way: str, model: torch.nn.Module, expected: dict[str, torch.Tensor]) -> dict:
    """Difference of the logits."""
    logits = model.eval()(pixel_values=expected["pixel_values"], spacing_mm=expected["spacing_mm"]).logits
    return {"way": way, "largest_difference": (logits - expected["logits"]).abs().max().item()}


if __name__ == "__main__":
    main(*sys.argv[1:])
