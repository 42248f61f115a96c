"""The planner against tensors that were really allocated, and its words to a person."""

from pathlib import Path

import pytest

from benchmarks.memory import arithmetic, config_of, kept_bytes, measured_apart, step_bytes
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.footprint import Arithmetic, Crops, num_masked, sizes_of
from dinox_hf.pretraining.memory import largest_table, main, own_plan, parts_table
from dinox_hf.pretraining.memory_plan import GB, POLICIES, RESERVED, largest_plan, nearest_plan, plan_run
from dinox_hf.pretraining.self_distillation import SelfDistillation

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "training" / "configs"
PAGE = (ROOT / "docs" / "memory.md").read_text()
SMALL = (
    "--crops={global_size: 112, local_size: 48, num_local: 3}",
    "--dino_head={num_prototypes: 1024, hidden_dim: 256}",
    "--ibot_head={num_prototypes: 2048, hidden_dim: 256}",
)
GATED = "--model.overrides={use_gated_mlp: true, num_hidden_layers: 3, drop_path_rate: 0.0}"
GRAM = ("--gram={first_step: 0}", "--crops.gram_size=224")
SHORT = "--model.overrides={num_hidden_layers: 4, drop_path_rate: 0.3}"


def planned(config, precision):
    batch = config.batch
    return plan_run(config, arithmetic(precision), config.model.checkpointing, batch.size, batch.accumulate)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("settings", [(SHORT,), (GATED, *GRAM)], ids=["plain", "gated with gram teacher"])
def test_what_is_kept_for_the_backward_pass_is_predicted(settings, policy, precision):
    config = config_of("vits16", policy, *SMALL, *settings)
    plan = planned(config, precision)
    assert plan.kept + plan.copies == pytest.approx(kept_bytes(config, precision), rel=0.03)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_peak_of_a_step_is_predicted(policy):
    config = config_of("vits16", policy, *SMALL, SHORT, "--batch.size=4")
    assert planned(config, "no").peak == pytest.approx(step_bytes(config, "no")[0], rel=0.1)


# The other combinations, minutes each on a CPU: python -m benchmarks.memory.
@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "policy", "precision"),
    [("vits16", "none", "no"), *(("vits16", policy, "bf16") for policy in POLICIES), ("vitb16", "block", "bf16")],
)
def test_with_the_recipes_crops_kept_and_peak_are_predicted(preset, policy, precision):
    plan = planned(config_of(preset, policy), precision)
    assert plan.kept + plan.copies == pytest.approx(measured_apart("kept", preset, precision, policy)[0], rel=0.1)
    assert plan.peak == pytest.approx(measured_apart("step", preset, precision, policy)[0], rel=0.1)


def test_parameters_are_those_of_the_networks():
    config = config_of("vit_tiny", "none")
    student, sizes = SelfDistillation(config).student, sizes_of(config)
    count = sum(parameter.numel() for parameter in student.parameters())
    assert count == sizes.student + 2 * 96 == sizes.trained + 2 * 96  # the norm of local CLS tokens


def test_as_many_patches_are_hidden_as_the_loader_hides():
    # Half of 8 crops hide 0.2, 0.3, 0.4 and 0.5 of 196 patches.
    assert num_masked(load_config(PretrainConfig), Crops(8, 201, 196, 224)) == 39 + 58 + 78 + 98


def test_the_largest_micro_batch_fits_and_the_next_one_does_not():
    config, how = config_of("vits16", "none", "--batch.size=8"), Arithmetic(2)
    sizes, device = sizes_of(config), 2 * GB
    plan = largest_plan(config, how, "none", device, sizes)
    next_one = plan_run(config, how, "none", 2 * plan.size, plan.accumulate // 2, sizes)
    assert plan.size * plan.accumulate == 16 and plan.accumulate > 1
    assert plan.peak <= (1 - RESERVED) * device < next_one.peak


def test_the_nearest_plan_keeps_the_step_as_long_as_it_can():
    config, how = config_of("vits16", "none", "--batch.size=4"), Arithmetic(2)
    sizes = sizes_of(config)
    least = plan_run(config, how, "block", 2, 4, sizes).peak
    assert nearest_plan(config, how, least / (1 - RESERVED), sizes).arguments == (
        "--model.checkpointing=block --batch.size=2 --batch.accumulate=4"
    )
    smaller = nearest_plan(config, how, 0.999 * least / (1 - RESERVED), sizes)
    assert smaller.size * smaller.accumulate == 4
    assert nearest_plan(config, how, 0.1 * least, sizes) is None


@pytest.mark.parametrize(("device", "code", "words"), [("96", 0, "It fits: "), ("16", 1, "It does not fit: ")])
def test_the_command_says_yes_or_no_and_what_to_do(device, code, words, capsys):
    assert main(["--config", str(CONFIGS / "vitg16.yaml"), "--device-gb", device]) == code
    printed = capsys.readouterr().out
    assert "vitg16: 1,13" in printed and words in printed
    named = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert [name for name in named if name in POLICIES] == [*POLICIES]


@pytest.mark.parametrize("preset", ["vits16", "vitb16", "vitl16", "vitg16"])
def test_the_page_has_the_table_of_the_command(preset):
    config = load_config(PretrainConfig, CONFIGS / f"{preset}_pretrain.yaml")
    assert "\n".join(largest_table(config, Arithmetic(2), 96 * GB, sizes_of(config))) in PAGE


def test_the_page_says_where_the_memory_of_the_largest_goes():
    config = load_config(PretrainConfig, CONFIGS / "vitg16.yaml")
    assert "\n".join(parts_table(own_plan(config, Arithmetic(2), 96 * GB, sizes_of(config)))) in PAGE


def test_a_misspelt_argument_of_the_command_is_named(capsys):
    assert main(["--device-gb", "96", "--batch.sizes=2"]) == 2
    assert "Did you mean `batch.size`" in capsys.readouterr().err
