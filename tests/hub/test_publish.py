import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from dinox_hf.evaluation.backbones.learning import latest_checkpoint
from dinox_hf.hub.clean_process import run_in_clean_process
from dinox_hf.hub.export import Answer, compare_in_clean_process
from dinox_hf.hub.publish import made_whole, publish_run, refuse_foreign_folder, refuse_other_tokens

from .conftest import make_run

SCRIPT = Path(__file__).parents[2] / "training" / "publish.py"


def run_publish(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["publish.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return stop.value.code


def test_a_stranger_gets_the_stock_class_with_equal_tokens_and_ours_exactly(published):
    _, answers = published
    assert [answer.class_name for answer in answers] == [
        "DINOv3ViTModel",
        "DINOv3ViTBackbone",
        "Dinov3CTModel",
        "Dinov3CTBackbone",
        "Dinov3CTForImageClassification",
        "Dinov3CTImageProcessor",
    ]
    assert all(answer.largest_difference < 1e-4 for answer in answers[:2])
    assert [answer.largest_difference for answer in answers[2:]] == [0.0] * 4
    assert all(answer.is_equal for answer in answers)


def test_the_folder_holds_these_files_and_no_other(published):
    out, _ = published
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "README.md",
        "config.json",
        "configuration_dinov3_ct.py",
        "figures/attention.png",
        "image_processing_dinov3_ct.py",
        "model.safetensors",
        "modeling_dinov3_ct.py",
        "preprocessor_config.json",
    }
    assert not list(out.parent.glob(".*.building"))


def test_config_speaks_to_stock_and_to_trusted_code(published):
    out, _ = published
    config = json.loads((out / "config.json").read_text())
    processor = json.loads((out / "preprocessor_config.json").read_text())
    assert config["model_type"] == "dinov3_vit"
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoBackbone", "AutoModelForImageClassification"}
    assert processor["image_processor_type"] == "ViTImageProcessor"
    assert processor["auto_map"] == {"AutoImageProcessor": "image_processing_dinov3_ct.Dinov3CTImageProcessor"}
    assert "_name_or_path" not in config | processor


def test_the_snippets_of_the_card_run_in_a_clean_process(published, tmp_path):
    out, _ = published
    snippets = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    assert len(snippets) == 3
    script = tmp_path / "snippets.py"
    # The windows that the first snippet writes out are those of our processor, before it resizes.
    snippets.insert(1, "first_slice = slice_hu")
    ours = 'processor(first_slice, do_resize=False, return_tensors="pt").pixel_values[0].numpy()'
    facts = ["cls_token.shape", "patch_tokens.shape", f"bool(np.allclose(pixels, {ours}, atol=1e-6))", "len(features)"]
    script.write_text("\n".join([*snippets, f"print({', '.join(facts)})"]))
    # 64 x 64 pixels in patches of 8 are 64 tokens of width 96.
    printed = run_in_clean_process(script, folder=out)
    assert printed == "torch.Size([1, 96]) torch.Size([1, 64, 96]) True 96\n"


def test_what_stock_cannot_hold_is_refused_by_name_and_nothing_is_left(tmp_path):
    run = make_run(tmp_path / "run", norm_type="rmsnorm", rope_coordinates="max")
    with pytest.raises(ValueError, match=r"norm_type='rmsnorm'.*rope_coordinates='max'"):
        publish_run(run, tmp_path / "out", plain_at_extent=True)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "dataset"}


def test_a_metric_network_is_refused_until_the_loss_of_plain_transformers_is_accepted(tmp_path):
    run = make_run(tmp_path / "run", rope_coordinates="metric", rope_extent_mm=300.0)
    with pytest.raises(ValueError, match=r"knows no spacing.*300 mm wide.*--plain-at-extent"):
        publish_run(run, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "dataset"}


@pytest.mark.long
def test_a_metric_network_is_published_with_a_word_about_millimetres_and_checked_at_a_spacing(tmp_path, monkeypatch):
    run, out = make_run(tmp_path / "run", rope_coordinates="metric", rope_extent_mm=300.0), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["publish.py", str(run), str(out), "--plain-at-extent"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    config, card = json.loads((out / "config.json").read_text()), (out / "README.md").read_text()
    assert (config["rope_coordinates"], config["rope_extent_mm"]) == ("metric", 300.0)
    assert "takes every image for 300 mm wide" in card and "spacing_mm=(0.7, 0.7)" in card
    # The clean process that compares tokens is told a spacing too; code that ignores it is found out.
    code = out / "modeling_dinov3_ct.py"
    code.write_text(code.read_text().replace("if spacing_mm is None:", "if True:"))
    answers = compare_in_clean_process(out, latest_checkpoint(run) / "backbone")
    assert [answer.is_equal for answer in answers] == [True, True, False, True, True, True]


def test_a_run_without_a_checkpoint_ends_in_one_paragraph_and_exit_code_2(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    # A checkpoint that was never finished has no state.json.
    (run / "checkpoints" / "step_00000010" / "backbone").mkdir(parents=True)
    assert run_publish(monkeypatch, run, tmp_path / "out") == 2
    message = capsys.readouterr().err.strip()
    assert re.search(r"Expected a complete checkpoint .*found none\. Let training/pretrain", message)
    assert "\n" not in message
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_weights_without_the_record_of_their_training_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "run.yaml").unlink()
    with pytest.raises(ValueError, match=r"run\.yaml"):
        publish_run(run, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "dataset"}


def test_a_foreign_folder_is_refused_and_an_earlier_export_is_not(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "dinov3_vit"}')
    with pytest.raises(ValueError, match="left alone"):
        refuse_foreign_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"dinox_run": "0123-step_1"}')
    refuse_foreign_folder(tmp_path)


def test_an_export_that_fails_half_way_leaves_the_earlier_one_as_it_was(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("first")
    with pytest.raises(KeyboardInterrupt), made_whole(out) as folder:
        (folder / "config.json").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "config.json").read_text() == "first"


def test_a_finished_export_replaces_the_earlier_one_completely(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "old.json").touch()
    with made_whole(out) as folder:
        (folder / "new.json").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new.json"]


@pytest.mark.parametrize(("difference", "unmatched"), [(1e-3, ()), (float("nan"), ()), (0.0, ("norm.weight",))])
def test_an_export_with_other_tokens_is_refused(difference, unmatched):
    answer = Answer("AutoModel", "DINOv3ViTModel", difference, allowed_difference=1e-5, unmatched=unmatched)
    with pytest.raises(RuntimeError, match="AutoModel"):
        refuse_other_tokens([answer])


@pytest.mark.long
def test_one_changed_weight_is_noticed_by_every_way_of_loading(finished_run, published, tmp_path):
    out, _ = published
    for path in out.glob("*.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layer.2.mlp.up_proj.weight"][0, 0] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    answers = compare_in_clean_process(tmp_path, latest_checkpoint(finished_run) / "backbone")
    assert [answer.is_equal for answer in answers] == [False, False, False, False, False, True]
