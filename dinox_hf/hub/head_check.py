"""A trained head is loaded where dinox_hf cannot be imported, in every way that its card shows; it answers alike."""

import json
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor

from ..model.modeling_dinov3_ct import Dinov3CTForImageClassification
from .clean_process import run_in_clean_process

TOLERANCE = 1e-5  # of the logits, relative to the largest; merging adds two products in another order


def check_in_clean_process(
    folder: Path,
    model: PeftModel | Dinov3CTForImageClassification,
    batch: dict[str, Tensor],
    is_online: bool = False,
) -> list[dict]:
    """Compare what a stranger computes with what was trained.

    Args:
        folder: adapter/ or model/, in which the process runs; its base where it says from there.
        model: as trained, on the CPU in float32.
        batch: `pixel_values` and `spacing_mm` of some nodules, as the head takes them.
        is_online: whether the process may fetch the base from the Hub.

    Returns:
        `way` and `largest_difference` for every way of loading.

    Raises:
        RuntimeError: if a way fails, or answers differently.
    """
    inputs = {name: batch[name].contiguous() for name in ("pixel_values", "spacing_mm")}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    with tempfile.TemporaryDirectory() as scratch:
        expected_file = Path(scratch) / "expected.safetensors"
        save_file(inputs | {"logits": logits.contiguous()}, expected_file)
        script = Path(__file__).with_name("head_stranger.py")
        printed = run_in_clean_process(script, expected_file, folder=Path(folder).resolve(), is_online=is_online)
    answers = json.loads(printed.splitlines()[-1])
    allowed = TOLERANCE * max(1.0, logits.abs().max().item())
    wrong = [f"{answer['way']}: {answer['largest_difference']:.1e}" for answer in answers]
    if not all(answer["largest_difference"] <= allowed for answer in answers):
        raise RuntimeError(
            f"The head in {folder} should give the logits with which it was trained, within {allowed:.0e}; found "
            f"{'; '.join(wrong)}. Its base may have been changed since: train the head again on the base as it is now."
        )
    return answers
