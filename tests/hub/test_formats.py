import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinox_hf import Dinov3CTConfig, Dinov3CTModel
from dinox_hf.evaluation.backbones.learning import latest_checkpoint
from dinox_hf.hub.formats import FORMATS, export_as
from dinox_hf.hub.onnx_graph import probe_images
from dinox_hf.hub.state_files import meta_state

from .conftest import make_run

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()


def snippet(word):
    """The code of the page that has this word, as printed."""
    (text,) = [text for text in re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL) if word in text]
    return compile(text, "docs/export.md", "exec")


def small(**overrides):
    """A network far from its initial values, so that a lost weight would show."""
    torch.manual_seed(0)
    model = Dinov3CTModel(Dinov3CTConfig.preset("vit_tiny", **({"num_hidden_layers": 1} | overrides)))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def saved(folder, **overrides):
    model = small(**overrides)
    model.save_pretrained(folder)
    return model


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_a_pth_file_holds_plain_tensors_under_the_names_of_stock_transformers(finished_run, tmp_path):
    (answer,) = export_as("pth", finished_run, tmp_path / "out")
    state = torch.load(tmp_path / "out" / "backbone.pth", weights_only=True)
    trained = Dinov3CTModel.from_pretrained(latest_checkpoint(finished_run) / "backbone")
    assert type(state) is dict and answer.largest_difference == 0.0
    torch.testing.assert_close(state, dict(trained.state_dict()), atol=0, rtol=0)
    assert names_in(tmp_path / "out") == {"backbone.pth", "config.json", "preprocessor_config.json"}


def test_the_snippets_of_the_page_run_as_printed(finished_run, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_as("pth", finished_run, "outputs/export/pth")
    Path("outputs/export/dual").symlink_to(published[0])
    found = {}
    exec(snippet("backbone.pth"), found)
    exec(snippet("out_features"), stock := {})
    images = probe_images(found["backbone"], 1, 3, 2)
    with torch.no_grad():
        tokens = found["backbone"].eval()(**images).last_hidden_state
        maps = stock["backbone"].eval()(images["pixel_values"]).feature_maps
    torch.testing.assert_close(maps[-1], tokens[:, 5:].mT.unflatten(-1, (3, 2)), atol=1e-4, rtol=0)
    assert len(maps) == 2


@pytest.mark.parametrize("overrides", [{}, {"use_gated_mlp": True, "num_register_tokens": 0}, {"key_bias": True}])
def test_the_way_to_metas_layout_and_back_keeps_every_token(tmp_path, overrides):
    model = saved(tmp_path / "ours", **overrides)
    export_as("meta", tmp_path / "ours", tmp_path / "meta")
    export_as("pth", tmp_path / "meta" / "backbone.pth", tmp_path / "back")
    again = torch.load(tmp_path / "back" / "backbone.pth", weights_only=True)
    torch.testing.assert_close(again, dict(model.state_dict()), atol=0, rtol=0)


def test_a_released_file_wants_the_name_of_its_size_and_brings_its_registers(tmp_path):
    model = small(layer_norm_eps=1e-5, num_hidden_layers=4, num_register_tokens=2)
    torch.save(meta_state(model), tmp_path / "released.pth")
    with pytest.raises(ValueError, match=r"found no config\.json beside .*released\.pth.*--preset"):
        export_as("pth", tmp_path / "released.pth", tmp_path / "out")
    export_as("pth", tmp_path / "released.pth", tmp_path / "out", preset="vit_tiny")
    again = Dinov3CTModel(Dinov3CTConfig(**json.loads((tmp_path / "out" / "config.json").read_text())))
    again.load_state_dict(torch.load(tmp_path / "out" / "backbone.pth", weights_only=True))
    images = probe_images(model, 2, 3, 4)
    assert torch.equal(again.eval()(**images).last_hidden_state, model(**images).last_hidden_state)


def test_metas_file_has_masked_key_biases_and_periods(tmp_path):
    state = meta_state(small())
    assert state["blocks.0.attn.qkv.bias_mask"].view(3, 96)[:, 0].tolist() == [1.0, 0.0, 1.0]
    # Heads of 32: eight periods 100^(i / 8).
    torch.testing.assert_close(state["rope_embed.periods"][:3], 100.0 ** (torch.arange(3) / 8))
    assert "blocks.0.attn.qkv.bias_mask" not in meta_state(small(key_bias=True))


def test_other_rope_periods_than_the_configuration_says_are_refused(tmp_path):
    saved(tmp_path / "ours")
    export_as("meta", tmp_path / "ours", tmp_path / "meta")
    state = torch.load(tmp_path / "meta" / "backbone.pth", weights_only=True)
    torch.save(state | {"rope_embed.periods": state["rope_embed.periods"] * 2}, tmp_path / "meta" / "backbone.pth")
    with pytest.raises(ValueError, match=r"RoPE periods.*found \[2\.0"):
        export_as("pth", tmp_path / "meta", tmp_path / "out")


METRIC = {"rope_coordinates": "metric", "rope_extent_mm": 300.0}
LOSSES = {
    "metric coordinates in stock": ("dinov3_vit", METRIC, "knows no spacing"),
    "metric coordinates in both": ("dual", METRIC, "knows no spacing"),
    "metric coordinates in Meta's": ("meta", METRIC, "rope_coordinates='metric'"),
    "RMSNorm in stock": ("dinov3_vit", {"norm_type": "rmsnorm"}, "norm_type='rmsnorm'"),
    "no layer scale in stock": ("dinov3_vit", {"layerscale_value": None}, "layerscale_value=None"),
    "another activation in Meta's": ("meta", {"hidden_act": "relu"}, "hidden_act='relu'"),
    "a gate with GELU in Meta's": ("meta", {"use_gated_mlp": True, "hidden_act": "gelu"}, "it has 'silu'"),
    "biases of its own in Meta's": ("meta", {"value_bias": False}, "share one bias"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_format_cannot_hold_is_refused_by_name_and_nothing_is_left(name, tmp_path):
    format, overrides, message = LOSSES[name]
    saved(tmp_path / "ours", **overrides)
    with pytest.raises(ValueError, match=message):
        export_as(format, tmp_path / "ours", tmp_path / "out")
    assert names_in(tmp_path) == {"ours"}
    # The file of our own names has room for all of it.
    assert export_as("pth", tmp_path / "ours", tmp_path / "out")[0].is_equal


def test_an_adapter_a_head_and_unmerged_lora_are_no_backbones(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"found a LoRA adapter.*merge"):
        export_as("pth", tmp_path / "adapter", tmp_path / "out")
    model = saved(tmp_path / "head")
    for extra, found in (("classifier.weight", "classifier"), ("model.layer.0.lora_A.weight", "unmerged LoRA")):
        state = {name: value.clone() for name, value in model.state_dict().items()} | {extra: torch.ones(1)}
        save_file(state, tmp_path / "head" / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"found {found}"):
            export_as("pth", tmp_path / "head", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_weight_on_the_way_is_found_and_nothing_is_written(tmp_path, monkeypatch):
    saved(tmp_path / "ours")

    def save_other(state, path):
        state["norm.weight"][0] += 1
        real_save(state, path)

    real_save = torch.save
    monkeypatch.setattr(torch, "save", save_other)
    with pytest.raises(RuntimeError, match="should give the tokens of the training checkpoint"):
        export_as("pth", tmp_path / "ours", tmp_path / "out")
    assert names_in(tmp_path) == {"ours"}


def test_an_unknown_format_and_a_foreign_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no format 'onx'\. Did you mean 'onnx'\? Choose from: dual, dinov3_vit"):
        export_as("onx", tmp_path, tmp_path / "out")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="left alone"):
        export_as("pth", tmp_path / "ours", tmp_path)


def test_a_missing_library_is_named_with_the_extra_that_brings_it_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match=r'found no onnxruntime\. Install them: pip install "dinox-hf\[onnx\]"'):
        export_as("onnx", tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.long
@pytest.mark.parametrize("overrides", [{}, METRIC | {"use_gated_mlp": True}], ids=["stock", "metric"])
def test_onnxruntime_gives_the_tokens_at_any_batch_and_size_and_the_file_names_no_path(
    overrides, tmp_path, monkeypatch
):
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "ours", **overrides)
    (answer,) = export_as("onnx", tmp_path / "ours", "outputs/export/onnx")
    assert answer.is_equal and 0 < answer.largest_difference < 1e-4
    graph = Path("outputs/export/onnx/model.onnx")
    inputs = onnxruntime.InferenceSession(str(graph)).get_inputs()
    assert inputs[0].shape == ["batch", 3, "height", "width"]
    assert [entry.name for entry in inputs[1:]] == (["spacing_mm"] if overrides else [])
    if not overrides:
        exec(snippet("onnxruntime"), found := {})
        assert found["tokens"].shape == (2, 5 + 12 * 8, 96) and found["cls_token"].shape == (2, 96)
    assert b"site-packages" not in graph.read_bytes() and b"onnx_graph.py" not in graph.read_bytes()


@pytest.mark.long
def test_the_stock_folder_is_what_transformers_itself_saves(tmp_path):
    run = make_run(tmp_path / "run", use_gated_mlp=True)
    answers = export_as("dinov3_vit", run, tmp_path / "out")
    assert [answer.class_name for answer in answers] == ["DINOv3ViTModel", "DINOv3ViTBackbone"]
    assert names_in(tmp_path / "out") == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    # An earlier export is replaced by one in another format.
    export_as("pth", tmp_path / "out", tmp_path / "out")
    assert names_in(tmp_path / "out") == {"backbone.pth", "config.json", "preprocessor_config.json"}


def test_every_format_of_the_table_is_described():
    from dinox_hf.hub import formats

    assert all(f"`{name}`" in formats.__doc__ for name in FORMATS)
