"""LoRA in pretraining: what moves and what stays, what a checkpoint offers, and the same run after an interruption."""

import re
import shutil

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, DINOv3ViTConfig, DINOv3ViTModel

import training.pretrain as script
from dinox_hf.model.modeling_dinov3_ct import Dinov3CTModel
from dinox_hf.pretraining.initialization import initialize
from dinox_hf.pretraining.low_rank import adapter_config, add_adapters, is_adapter, merged
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.training.tiny import tiny_config, tiny_set

SIZE = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 3}
OVERRIDES = "--model.overrides={patch_size: 8, drop_path_rate: 0.3, layer_norm_eps: 1e-5}"
# Large steps, so that whatever moves has moved after a few of them.
FAST = ("--optimizer={lr: 0.05, warmup_steps: 0}", "--teacher={momentum: 0.5, momentum_end: 0.5}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set") / "built")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder of stock transformers, as `hf download` leaves it."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("hub") / "dinov3-tiny"
    stock = DINOv3ViTModel(DINOv3ViTConfig(**SIZE, patch_size=8, num_register_tokens=4, layer_norm_eps=1e-5))
    stock.save_pretrained(folder)
    return folder


def lora_config(data, output, released, *overrides):
    return tiny_config(data, output, *FAST, OVERRIDES, f"--init={released}", "--lora={rank: 4, alpha: 8}", *overrides)


def adapted_model(config):
    """Student and teachers as a run begins with them, and what the user was told."""
    told = []
    torch.manual_seed(3)
    model = SelfDistillation(config)
    initialize(config, model, told.append)
    add_adapters(model, config.lora, told.append)
    return model, told


@pytest.fixture(scope="module")
def finished(data, released, tmp_path_factory):
    """The folder of an uninterrupted run of six steps, with Gram anchoring from the third."""
    output = tmp_path_factory.mktemp("run") / "whole"
    script.main(lora_config(data, output, released))
    return output


def checkpoint(folder, step=6):
    return folder / "checkpoints" / f"step_{step:08d}"


def tensors_of(folder):
    return load_file(checkpoint(folder) / "training.safetensors")


def tokens(backbone):
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return backbone.eval()(pixels).last_hidden_state


def test_the_first_network_is_the_one_that_was_loaded(data, released, tmp_path):
    model, told = adapted_model(lora_config(data, tmp_path / "run", released))
    expected = tokens(DINOv3ViTModel.from_pretrained(released))
    for backbone in (model.student.backbone, model.teacher.backbone, model.gram_teacher):
        torch.testing.assert_close(tokens(backbone), expected, atol=1e-5, rtol=0)
    assert not any("wipe out" in line for line in told)  # frozen weights are safe from any learning rate


def test_only_adapters_heads_and_the_norm_of_local_crops_are_trained(data, released, tmp_path):
    model, told = adapted_model(lora_config(data, tmp_path / "run", released))
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    heads = re.compile(r"student\.(dino_head|ibot_head|local_cls_norm)\.")
    assert {name for name in trained if not is_adapter(name)} == {
        n for n, _ in model.named_parameters() if heads.match(n)
    }
    # Four blocks; rank 4 times inputs plus outputs of four layers of attention and two of the feed-forward.
    expected = 4 * 4 * (4 * (96 + 96) + 2 * (96 + 384))
    assert sum(count for name, count in trained.items() if is_adapter(name)) == expected
    assert f"LoRA of rank 4: {expected:,} adapter parameters" in told[-1]


def test_adapters_may_stay_out_of_the_feed_forward(data, released, tmp_path):
    model, _ = adapted_model(lora_config(data, tmp_path / "run", released, "--lora.layers=attention"))
    layers = {re.sub(r".*\d\.|\.lora.*", "", name) for name, _ in model.student.named_parameters() if is_adapter(name)}
    assert layers == {f"attention.{part}_proj" for part in "qkvo"}


def test_the_optimizer_sees_what_is_trained_and_layers_keep_their_pace(data, released, tmp_path):
    model, _ = adapted_model(lora_config(data, tmp_path / "run", released))
    optimizer = build_optimizer(model.student.named_parameters(), depth=4, layerwise_decay=0.5)
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in model.student.named_parameters():
        assert (id(parameter) in groups) == parameter.requires_grad, name
        if is_adapter(name):
            group, layer = groups[id(parameter)], int(re.search(r"layer\.(\d)", name)[1])
            assert (group["lr_multiplier"], group["wd_multiplier"]) == (0.5 ** (4 - layer), 1.0)


def test_merged_weights_give_the_adapted_tokens(data, released, tmp_path):
    backbone = adapted_model(lora_config(data, tmp_path / "run", released))[0].student.backbone
    before = tokens(backbone)
    for name, parameter in backbone.named_parameters():
        if is_adapter(name) or "layer_scale" in name:  # fresh blocks hardly speak
            torch.nn.init.normal_(parameter, std=0.1)
    plain = Dinov3CTModel(backbone.config)
    plain.load_state_dict(merged(backbone.state_dict(), adapter_config(backbone)))
    assert (tokens(backbone) - before).abs().max() > 0.1
    torch.testing.assert_close(tokens(plain), tokens(backbone), atol=1e-5, rtol=0)


def test_frozen_weights_stay_bit_for_bit_while_adapters_move(finished, released):
    found, start = tensors_of(finished), load_file(released / "model.safetensors")
    frozen = {name: tensor for name, tensor in found.items() if ".base_layer." in name}
    assert {name.split(".")[0] for name in frozen} == {"student", "gram_teacher"}
    for name, tensor in frozen.items():
        plain = re.sub(r"^student\.backbone\.|^gram_teacher\.", "", name).replace(".base_layer.", ".")
        assert torch.equal(tensor, start.get(plain, start.get(plain.removeprefix("model."))))
    for network in ("student.backbone.", "teacher.backbone.", "gram_teacher."):
        moved = [n for n, tensor in found.items() if n.startswith(network) and ".lora_B." in n and tensor.any()]
        assert len(moved) == 4 * 6


def test_a_checkpoint_holds_a_plain_backbone_and_the_adapter_by_itself(finished, released):
    folder = checkpoint(finished)
    assert sorted(path.name for path in (folder / "backbone_adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    backbone = AutoModel.from_pretrained(folder / "backbone")
    assert type(backbone) is Dinov3CTModel and not any(is_adapter(name) for name in backbone.state_dict())
    stock = DINOv3ViTModel.from_pretrained(released)
    assert (tokens(backbone) - tokens(stock)).abs().max() > 1e-3
    adapted = PeftModel.from_pretrained(stock, folder / "backbone_adapter")
    torch.testing.assert_close(tokens(adapted), tokens(backbone), atol=1e-5, rtol=0)
    record = yaml.safe_load((finished / "run.yaml").read_text())["lineage"]
    assert record["backbone_parameters"] == sum(parameter.numel() for parameter in backbone.parameters())


def test_a_run_with_adapters_that_was_interrupted_is_the_same_run(finished, data, released, tmp_path):
    output = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(checkpoint(output))
    (output / "run.yaml").write_text((output / "run.yaml").read_text().replace(str(finished), str(output)))
    script.main(lora_config(data, output, released), resume="always")
    expected, found = tensors_of(finished), tensors_of(output)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    for part in ("backbone/model.safetensors", "backbone_adapter/adapter_model.safetensors"):
        assert (checkpoint(output) / part).read_bytes() == (checkpoint(finished) / part).read_bytes()


@pytest.mark.parametrize("lora", ["null", "{rank: 2}"])
def test_the_next_stage_starts_from_the_merged_teacher(lora, finished, data, tmp_path):
    overrides = ("--gram={first_step: 0, ramp_steps: 0, max_refreshes: 0}", OVERRIDES, f"--lora={lora}")
    config = tiny_config(data, tmp_path / "next", *overrides, f"--init.from_run={finished}")
    torch.manual_seed(3)
    model = SelfDistillation(config)
    initialize(config, model, lambda _: None)
    if config.lora:
        add_adapters(model, config.lora, lambda _: None)
    expected = tokens(AutoModel.from_pretrained(checkpoint(finished) / "backbone"))
    for backbone in (model.student.backbone, model.teacher.backbone, model.gram_teacher):
        torch.testing.assert_close(tokens(backbone), expected, atol=1e-6, rtol=0)


def test_what_adapters_cannot_do_is_refused(finished, data, released, tmp_path):
    with pytest.raises(ValueError, match=r"init.weights must be a trained backbone with `lora`; found None.*--init"):
        script.main(tiny_config(data, tmp_path / "run", "--lora={}"))
    everything = ("--init", f"{{from_run: {finished}, take: everything}}")
    with pytest.raises(ValueError, match=r"init.take must be teacher with `lora`; found 'everything'"):
        script.main(tiny_config(data, tmp_path / "run", OVERRIDES, "--lora={}", "=".join(everything)))
    with pytest.raises(ValueError, match=r"(?s)teacher where the run before has `lora`; found everything.*Leave init"):
        script.main(tiny_config(data, tmp_path / "run", OVERRIDES, "=".join(everything)))
    with pytest.raises(ValueError, match=r"lora.rank must be >= 1; found 0"):
        tiny_config(data, tmp_path / "run", "--lora.rank=0")
    with pytest.raises(ValueError, match=r"found a change in lora.rank: 4 became 8"):
        script.main(lora_config(data, finished, released, "--lora.rank=8"), resume="always")
