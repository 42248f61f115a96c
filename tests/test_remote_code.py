"""A saved folder loads and runs where `dinox_hf` cannot be imported: plainly as DINOv3, trusted as Dinov3CT."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from dinox_hf import Dinov3CTConfig, Dinov3CTImageProcessor, Dinov3CTModel
from dinox_hf.hub.clean_process import run_in_clean_process
from dinox_hf.model import modeling_dinov3_ct

AUTO_MAP = {
    "AutoConfig": "configuration_dinov3_ct.Dinov3CTConfig",
    "AutoModel": "modeling_dinov3_ct.Dinov3CTModel",
    "AutoBackbone": "modeling_dinov3_ct.Dinov3CTBackbone",
    "AutoModelForImageClassification": "modeling_dinov3_ct.Dinov3CTForImageClassification",
}
STRANGER = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

folder = sys.argv[1]
inputs = load_file(f"{folder}/../inputs.safetensors")
trust = {"trust_remote_code": True}
models = {
    "plain": AutoModel.from_pretrained(folder),
    "trusted": AutoModel.from_pretrained(folder, **trust),
    "backbone": AutoBackbone.from_config(AutoConfig.from_pretrained(folder, **trust), **trust),
    "classifier": AutoModelForImageClassification.from_pretrained(folder, num_labels=2, **trust),
}
# AutoBackbone.from_pretrained asks the Hub whether the repository exists, even for a local folder.
models["backbone"].load_state_dict(models["trusted"].state_dict())
processor = AutoImageProcessor.from_pretrained(folder, **trust)
with torch.no_grad():
    answers = {name: models[name].eval()(inputs["pixel_values"]).last_hidden_state for name in ("plain", "trusted")}
    answers["feature_map"] = models["backbone"].eval()(inputs["pixel_values"]).feature_maps[-1].contiguous()
    answers["classifier"] = models["classifier"].eval().model(inputs["pixel_values"]).last_hidden_state
answers["slice"] = processor(inputs["slice_hu"], return_tensors="pt").pixel_values
save_file(answers, f"{folder}/../answers.safetensors")
print(json.dumps({name: type(value).__name__ for name, value in (models | {"processor": processor}).items()}))
"""


def save_dual_mode(model: Dinov3CTModel, folder: Path) -> None:
    """What the export writes: stock's model type, our `auto_map`, and the three files of code."""
    model.save_pretrained(folder)
    processor = Dinov3CTImageProcessor(size=40)
    processor.save_pretrained(folder)
    ours = {"AutoImageProcessor": "image_processing_dinov3_ct.Dinov3CTImageProcessor"}
    edit(folder / "config.json", model_type="dinov3_vit", auto_map=AUTO_MAP)
    edit(folder / "preprocessor_config.json", image_processor_type="ViTImageProcessor", auto_map=ours)
    for name in ("configuration", "modeling", "image_processing"):
        shutil.copy(Path(modeling_dinov3_ct.__file__).with_name(f"{name}_dinov3_ct.py"), folder)


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@torch.no_grad()
def test_a_stranger_gets_the_same_tokens_with_and_without_trust(tmp_path):
    torch.manual_seed(0)
    config = Dinov3CTConfig.preset("vit_tiny", use_gated_mlp=True, layerscale_value=0.5)
    model = Dinov3CTModel(config).eval()
    folder = tmp_path / "checkpoint"
    save_dual_mode(model, folder)
    pixel_values, slice_hu = torch.randn(2, 3, 40, 56), torch.randint(-1024, 1500, (60, 50), dtype=torch.int16)
    save_file({"pixel_values": pixel_values, "slice_hu": slice_hu}, tmp_path / "inputs.safetensors")
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)

    printed = run_in_clean_process(script, folder)

    assert json.loads(printed.splitlines()[-1]) == {
        "plain": "DINOv3ViTModel",
        "trusted": "Dinov3CTModel",
        "backbone": "Dinov3CTBackbone",
        "classifier": "Dinov3CTForImageClassification",
        "processor": "Dinov3CTImageProcessor",
    }
    answers, tokens = load_file(tmp_path / "answers.safetensors"), model(pixel_values).last_hidden_state
    torch.testing.assert_close(answers["plain"], tokens, atol=1e-5, rtol=0)
    for name in ("trusted", "classifier"):
        assert torch.equal(answers[name], tokens)
    assert torch.equal(answers["feature_map"], tokens[:, 5:].mT.unflatten(-1, (5, 7)))
    expected = Dinov3CTImageProcessor(size=40)(slice_hu).pixel_values
    assert np.array_equal(answers["slice"], expected)


def test_with_our_package_imported_a_dual_mode_folder_still_opens(tmp_path):
    save_dual_mode(Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", num_hidden_layers=1)), tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "DINOv3ViTConfig"
    assert type(AutoModel.from_pretrained(tmp_path)).__name__ == "DINOv3ViTModel"
    assert isinstance(Dinov3CTModel.from_pretrained(tmp_path), Dinov3CTModel)
