"""Three stages in a row, and runs that begin with released weights: what really arrives, and what is refused."""

import json
import shutil

import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import DINOv3ViTConfig, DINOv3ViTModel

import training.pretrain as script
from dinox_hf.model import weight_files
from dinox_hf.model.checkpoint_keys import ours_to_meta
from dinox_hf.pretraining.initialization import initialize, recorded_origin, take_moments
from dinox_hf.pretraining.optimizer import build_optimizer
from dinox_hf.pretraining.self_distillation import SelfDistillation
from tests.training.tiny import tiny_config, tiny_set

PRETRAIN = ("--steps=4", "--save_every=2", "--gram={first_step: null}")
GRAM = ("--steps=2", "--gram={first_step: 0, ramp_steps: 0, max_refreshes: 0}")
# With a momentum of 1 the teacher stays what it was, so a checkpoint after the run shows what the run began with.
STILL = ("--teacher={momentum: 1.0, momentum_end: 1.0}",)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_set(tmp_path_factory.mktemp("set") / "built")


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """The folder of a first stage with checkpoints after 2 and 4 steps."""
    output = tmp_path_factory.mktemp("run") / "pretrain"
    script.main(tiny_config(data, output, *PRETRAIN))
    return output


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step_{step:08d}"


def backbone(folder, step):
    return load_file(checkpoint(folder, step) / "backbone" / "model.safetensors")


def part(folder, step, prefix):
    tensors = load_file(checkpoint(folder, step) / "training.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys() and len(expected) > 0
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def fresh(config):
    torch.manual_seed(3)
    return SelfDistillation(config)


def test_three_stages_run_one_after_the_other(pretrained, data, tmp_path):
    gram, highres = tmp_path / "gram", tmp_path / "highres"
    script.main(
        tiny_config(data, gram, *GRAM, *STILL, f"--init={{from_run: {pretrained}, take: everything, gram_step: 2}}")
    )
    sizes = "[{global_size: 48, local_size: 24, gram_size: 64}, {global_size: 64, local_size: 16, gram_size: 64}]"
    larger = (f"--crops={{sizes: {sizes}, num_local: 2}}",)
    init = f"--init={{from_run: {gram}}}"
    script.main(tiny_config(data, highres, *GRAM, *STILL, *larger, init))

    # Stage 2: the teacher is that of stage 1, anchored to the teacher of an earlier step and not to itself.
    assert_equal(backbone(gram, 2), backbone(pretrained, 4))
    assert_equal(part(gram, 2, "gram_teacher."), backbone(pretrained, 2))
    assert not torch.equal(backbone(pretrained, 2)["norm.weight"], backbone(pretrained, 4)["norm.weight"])
    # Stage 3: again the teacher goes on, heads included, and its own last state is the anchor.
    assert_equal(backbone(highres, 2), backbone(gram, 2))
    assert_equal(part(highres, 2, "teacher."), part(pretrained, 4, "teacher."))
    assert_equal(part(highres, 2, "gram_teacher."), backbone(gram, 2))
    lines = [json.loads(line) for line in (highres / "metrics.jsonl").read_text().splitlines()]
    assert all(line["gram"] > 0 for line in lines) and len(lines) == 2

    origin = yaml.safe_load((highres / "run.yaml").read_text())["lineage"]["origin"]
    assert (origin["from_run"], origin["step"], origin["gram_teacher_step"]) == (str(gram), 2, 2)
    before = origin["origin"]
    assert (before["from_run"], before["step"], before["gram_teacher_step"]) == (str(pretrained), 4, 2)
    assert before["take"] == "everything" and before["origin"] is None
    images = yaml.safe_load((gram / "run.yaml").read_text())["lineage"]["images_per_step"]
    assert origin["images_per_step"] == before["images_per_step"] == images


def test_checkpoints_for_later_stages_outlive_the_rotation(data, tmp_path):
    often = ("--steps=5", "--save_every=1", "--keep_every=2", "--keep_checkpoints=1", "--gram={first_step: null}")
    script.main(tiny_config(data, tmp_path / "run", *often))
    names = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step_00000002", "step_00000004", "step_00000005"]
    with pytest.raises(ValueError, match=r"keep_every must be a multiple of save_every, which is 2; found 3"):
        tiny_config(data, tmp_path / "run", "--keep_every=3")


def test_the_gram_teacher_stays_where_it_was_while_the_teacher_moves(pretrained, data, tmp_path):
    moving = ("--teacher={momentum: 0.5, momentum_end: 0.5}", "--optimizer={warmup_steps: 0, lr: 0.01}")
    script.main(tiny_config(data, tmp_path / "gram", *GRAM, *moving, f"--init={{from_run: {pretrained}}}"))
    anchor, teacher = part(tmp_path / "gram", 2, "gram_teacher."), backbone(tmp_path / "gram", 2)
    assert_equal(anchor, backbone(pretrained, 4))
    assert not torch.equal(anchor["norm.weight"], teacher["norm.weight"])


def test_the_student_starts_as_the_teacher_or_goes_on_as_it_was(pretrained, data, tmp_path):
    config = tiny_config(data, tmp_path / "run", *GRAM, f"--init={{from_run: {pretrained}}}")
    model = fresh(config)
    initialize(config, model)
    assert_equal(model.student.state_dict(), model.teacher.state_dict())
    assert_equal(dict(model.teacher.backbone.state_dict()), backbone(pretrained, 4))

    config = tiny_config(
        data, tmp_path / "run", *GRAM, f"--init={{from_run: {pretrained}, take: everything, step: 2}}"
    )
    model = fresh(config)
    initialize(config, model)
    assert_equal(dict(model.student.state_dict()), part(pretrained, 2, "student."))
    assert_equal(dict(model.teacher.backbone.state_dict()), backbone(pretrained, 2))


@pytest.mark.parametrize("take", ["teacher", "everything"])
def test_the_moments_come_along_only_with_everything(take, pretrained, data, tmp_path):
    config = tiny_config(data, tmp_path / "run", *GRAM, f"--init={{from_run: {pretrained}, take: {take}}}")
    model = fresh(config)
    optimizer = build_optimizer(model.student.named_parameters(), depth=4)
    take_moments(config.init, model, optimizer)
    found = {
        f"{name}|{key}": value
        for name, parameter in model.student.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    if take == "teacher":
        assert found == {}
    else:
        assert_equal(found, part(pretrained, 4, "optimizer."))
        assert {value.item() for name, value in found.items() if name.endswith("|step")} == {4}


def test_a_stage_is_resumed_without_the_run_before(pretrained, data, tmp_path):
    """Its own checkpoint holds everything, and its record keeps what it began with."""
    before = shutil.copytree(pretrained, tmp_path / "before")
    config = tiny_config(data, tmp_path / "gram", *GRAM, "--save_every=1", f"--init={{from_run: {before}}}")
    script.main(config)
    expected = recorded_origin(tmp_path / "gram")
    shutil.rmtree(before)
    shutil.rmtree(checkpoint(tmp_path / "gram", 2))
    script.main(config, resume="always")
    assert recorded_origin(tmp_path / "gram") == expected and expected["step"] == 4
    with pytest.raises(ValueError, match=r"found a change in init.take: teacher became everything"):
        changed = f"--init={{from_run: {before}, take: everything}}"
        script.main(tiny_config(data, tmp_path / "gram", *GRAM, "--save_every=1", changed), resume="always")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--init.step=3",),
            r"init.step should be a step with a checkpoint .* found 3, and .* after 2, 4\..*keep_chec",
        ),
        (
            ("--dino_head.num_prototypes=24",),
            r"teacher in .*step_00000004 .*dino_head.prototypes.weight: expected \(24",
        ),
        (("--model.untie_local_cls_norm=false",), r"unexpected: local_cls_norm.bias"),
        (("--model.overrides.num_hidden_layers=3",), r"num_hidden_layers=3 instead of 4.*--model.preset=vit_tiny"),
        # Leaves no trace in the weights.
        (("--model.overrides.layer_norm_eps=0.01",), r"layer_norm_eps=0.01 instead of 1e-06"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_by_name(arguments, message, pretrained, data, tmp_path):
    config = tiny_config(data, tmp_path / "run", *GRAM, f"--init.from_run={pretrained}", *arguments)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        initialize(config, fresh(config))


def test_a_stage_needs_the_stage_before_it(data, tmp_path):
    config = tiny_config(data, tmp_path / "gram", *GRAM, f"--init.from_run={tmp_path / 'none'}")
    with pytest.raises(ValueError, match=r"found none in .*none/checkpoints. Run the stage before first"):
        script.main(config)
    config = tiny_config(data, tmp_path / "gram", *GRAM, f"--init.from_run={tmp_path / 'gram'}")
    with pytest.raises(ValueError, match=r"found this run's own `output`.*--resume"):
        script.main(config)


RELEASED = {
    "patch_size": 8,
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "num_register_tokens": 4,
    "layer_norm_eps": 1e-5,
}
FITTING = "--model.overrides={patch_size: 8, layer_norm_eps: 1e-5}"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder as `hf download` leaves it: stock transformers, with a card that names the licence."""
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("hub") / "dinov3-tiny"
    model = DINOv3ViTModel(DINOv3ViTConfig(**RELEASED))
    torch.nn.init.uniform_(model.norm.weight, 0.5, 1.5)  # trained: fresh norms are all alike
    model.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: dinov3-license\n---\n# A model\n")
    return folder


def started_from(name, data, tmp_path, *overrides):
    config = tiny_config(data, tmp_path / "run", FITTING, f"--init={name}", *overrides)
    model = fresh(config)
    told = []
    return model, initialize(config, model, told.append), told


def test_released_weights_reach_student_teacher_and_gram_teacher(released, data, tmp_path):
    model, origin, told = started_from(released, data, tmp_path)
    stock = DINOv3ViTModel.from_pretrained(released).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = stock(pixels).last_hidden_state
        for network in (model.student.backbone, model.teacher.backbone, model.gram_teacher):
            torch.testing.assert_close(network.eval()(pixels).last_hidden_state, expected, atol=1e-5, rtol=0)
    assert torch.equal(model.student.local_cls_norm.weight, model.student.backbone.norm.weight)
    untouched = fresh(tiny_config(data, tmp_path / "run", FITTING))
    assert_equal(model.student.dino_head.state_dict(), untouched.student.dino_head.state_dict())
    assert (origin["weights"], origin["licence"]) == (str(released), "dinov3-license") and len(origin["sha256"]) == 64
    assert "heads are drawn anew" in told[0] and "optimizer.lr=0.001" in told[1]


def test_a_safe_learning_rate_is_not_commented_on(released, data, tmp_path):
    assert len(started_from(released, data, tmp_path, "--optimizer.lr=3e-5")[2]) == 1


@pytest.mark.parametrize(
    "layout", ["backbone.pth", "teacher.pth", "meta.safetensors", "run", "checkpoint", "backbone"]
)
def test_every_layout_gives_the_same_backbone(layout, pretrained, data, tmp_path):
    weights = backbone(pretrained, 4)
    meta = ours_to_meta(weights)
    places = {"run": pretrained, "checkpoint": checkpoint(pretrained, 4)}
    places["backbone"] = places["checkpoint"] / "backbone"
    name = places.get(layout, tmp_path / layout)
    if layout == "backbone.pth":
        torch.save(meta, name)
    if layout == "teacher.pth":
        torch.save(
            {"teacher": {f"backbone.{key}": value for key, value in meta.items()} | {"dino_head.x": torch.ones(1)}},
            name,
        )
    if layout == "meta.safetensors":
        save_file(meta, name)
    model, _, _ = started_from(name, data, tmp_path, "--model.overrides.layer_norm_eps=1e-6")
    assert_equal(dict(model.student.backbone.state_dict()), weights)


def test_a_run_from_released_weights_hands_their_licence_to_the_next_stage(released, data, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    script.main(tiny_config(data, first, FITTING, "--steps=2", f"--init={released}", "--gram={first_step: null}"))
    script.main(tiny_config(data, second, FITTING, *GRAM, f"--init.from_run={first}"))
    origin = yaml.safe_load((second / "run.yaml").read_text())["lineage"]["origin"]
    assert origin["origin"]["licence"] == "dinov3-license"
    third = started_from(second, data, tmp_path)[1]
    assert third["origin"] == origin and third["licence"] == "dinov3-license"


def test_a_backbone_named_by_its_checkpoint_brings_the_record_of_its_run(pretrained, data, tmp_path, monkeypatch):
    lineage = yaml.safe_load((pretrained / "run.yaml").read_text())["lineage"]
    monkeypatch.chdir(pretrained / "checkpoints")
    for name in (checkpoint(pretrained, 2) / "backbone", checkpoint(pretrained, 2), "step_00000002/backbone"):
        origin = started_from(name, data, tmp_path, "--model.overrides.layer_norm_eps=1e-6")[1]
        assert (origin["from_run"], origin["step"], origin["weights"]) == (str(pretrained), 2, str(name))
        assert origin["data_fingerprint"] == lineage["data_fingerprint"] and origin["licence"] == "gpl-3.0"
        assert origin["images_per_step"] == lineage["images_per_step"] and origin["origin"] is None


def test_partial_weights_are_refused_with_every_name(released, data, tmp_path):
    weights = load_file(released / "model.safetensors")
    del weights["norm.bias"]
    save_file(weights | {"head.weight": torch.ones(2)}, tmp_path / "partial.safetensors")
    with pytest.raises(ValueError, match=r"(?s)2 differences.*missing: norm.bias.*unexpected: head.weight"):
        started_from(tmp_path / "partial.safetensors", data, tmp_path)


def test_another_size_or_epsilon_is_refused_with_the_arguments_that_fit(released, data, tmp_path):
    config = tiny_config(data, tmp_path / "run", "--model.overrides={num_hidden_layers: 2}", f"--init={released}")
    with pytest.raises(
        ValueError, match=r"num_hidden_layers=2 instead of 4, layer_norm_eps=1e-06 instead of 1e-05"
    ) as e:
        initialize(config, fresh(config))
    assert "--model.preset=vit_tiny --model.overrides='{layer_norm_eps: 1e-05}'" in str(e.value)


def test_pickled_code_is_never_run(data, tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"cls_token": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        started_from(tmp_path / "bad.pth", data, tmp_path)
    assert not (tmp_path / "harm").exists()


def test_without_a_network_the_way_to_the_weights_is_told(data, tmp_path, monkeypatch):
    def offline(*_arguments, **_how):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(weight_files, "snapshot_download", offline)
    with pytest.raises(
        RuntimeError, match=r"run `hf download facebook/dinov3-x --local-dir dinov3-x`.*--init=dinov3-x"
    ):
        started_from("facebook/dinov3-x", data, tmp_path)
    with pytest.raises(
        RuntimeError, match=r"download outputs/nothere, as no such file or folder is here; found no way"
    ):
        started_from("outputs/nothere", data, tmp_path)
    for mistyped in ("./weihgts", "outputs/nothere/backbone"):
        with pytest.raises(ValueError, match=rf"existing path; found '{mistyped}', and no such file or folder in /"):
            started_from(mistyped, data, tmp_path)


def test_a_name_that_the_hub_would_never_give_is_refused_by_us(data, tmp_path):
    with pytest.raises(ValueError, match=r"existing path; found 'outputs/not--here', which is neither"):
        started_from("outputs/not--here", data, tmp_path)


def test_init_is_given_as_one_argument_or_two():
    one, _ = script.read_arguments(["--init=facebook/x", "--seed=1"])
    two, _ = script.read_arguments(["--init", "facebook/x", "--seed=1"])
    assert one == two and one.init.weights == "facebook/x" and one.seed == 1
