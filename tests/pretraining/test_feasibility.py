"""Configurations that cannot work stop before the first step, with what to change."""

import re
from pathlib import Path

import pytest

import training.pretrain as script
from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import load_config
from dinox_hf.pretraining.feasibility import refuse_too_few_slices, refuse_what_cannot_work, what_never_happens
from tests.training.tiny import TINY, tiny_config, tiny_set

CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs"
RUNNABLE = sorted(path for path in CONFIGS.glob("*.yaml") if not path.name.startswith("finetune_"))
SIZES = ("vits16", "vitb16", "vitl16", "vitg16")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "--crops.global_size=36",
            r"crops.global_size must be a multiple of patch size 8; found 36.*32 is nearest",
        ),
        ("--crops.local_size=23", r"crops.local_size must be a multiple .* 24 is nearest"),
        ("--crops.gram_size=60", r"crops.gram_size must be a multiple .* 64 is nearest"),
        ("--crops.gram_size=24", r"crops.gram_size must be >= crops.global_size, which is 32; found 24"),
        ("--gram.teacher=ema", r"crops.gram_size must be null where no gram teacher looks at its crops; found 64"),
        ("--gram={first_step: null}", r"crops.gram_size must be null .* set gram.first_step"),
        ("--dino_head.num_prototypes=7", r"dino_head.num_prototypes must be >= dino_head.bottleneck_dim, which is 8"),
        ("--ibot_head.num_prototypes=4", r"ibot_head.num_prototypes must be >= ibot_head.bottleneck_dim"),
        ("--masking.probability=0.1", r"masking must be enough to hide one of 16 patches; found 0.*raise masking"),
        ("--masking.ratio=[0.0, 0.05]", r"masking must be enough to hide one of 16 patches; found 0.*losses.ibot: 0"),
        ("--gram.first_step=0", r"gram.first_step must be > 0 where .* random draw; found 0.*init.from_run"),
        ("--init={from_run: a, gram_step: 3}", r"gram.first_step must be 0 with init.gram_step; found 2"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(override, message, tmp_path):
    config = tiny_config(tmp_path, tmp_path / "run", "--crops.gram_size=64", override)
    with pytest.raises(ValueError, match=message):
        refuse_what_cannot_work(config)
    # The script asks before it touches data or disk.
    with pytest.raises(ValueError, match=message):
        script.main(config)
    assert not (tmp_path / "run").exists()


def test_the_parts_of_the_tiny_run_fit_together():
    refuse_what_cannot_work(load_config(PretrainConfig, None, [*TINY, "--crops.gram_size=64"]))


@pytest.mark.parametrize("fitting", [["--masking.probability=0.2"], ["--masking.probability=0", "--losses.ibot=0"]])
def test_masks_may_be_few_and_without_ibot_none(fitting):
    refuse_what_cannot_work(load_config(PretrainConfig, None, [*TINY, *fitting]))


@pytest.mark.parametrize("size", [{"size": 4, "accumulate": 3}, {"size": 12}])
def test_a_step_of_more_slices_than_there_are_is_refused(size, tmp_path):
    config = tiny_config(tiny_set(tmp_path / "set"), tmp_path / "run", f"--batch={size}")
    with pytest.raises(ValueError, match=r"accumulate x processes must be <= 11, the slices of the data; found 12"):
        script.main(config)


def test_processes_count_too():
    config = load_config(PretrainConfig, None, ["--batch={size: 4, accumulate: 2}"])
    refuse_too_few_slices(config, num_slices=16, num_processes=2)
    with pytest.raises(ValueError, match=r"found 24. Note: lower batch.accumulate \(2\) or batch.size \(4\)"):
        refuse_too_few_slices(config, num_slices=16, num_processes=3)


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        (["--optimizer.warmup_steps=5"], []),
        (["--optimizer.warmup_steps=6"], [r"never reaches its peak in this run: .*warmup_steps is 6, steps 6\."]),
        (["--gram={first_step: 4, ramp_steps: 3}"], []),
        (["--gram={first_step: 5, ramp_steps: 3}"], [r"Gram anchoring never begins .*first_step is 5, steps 6\."]),
        (["--gram={first_step: 5, ramp_steps: 0}"], []),
        (["--gram={first_step: 6, ramp_steps: 0}", "--optimizer.warmup_steps=9"], ["peak", "Gram anchoring never"]),
    ],
)
def test_what_the_number_of_steps_leaves_no_room_for_is_said_and_not_refused(overrides, notes):
    config = load_config(PretrainConfig, None, [*TINY, *overrides])
    refuse_what_cannot_work(config)
    found = what_never_happens(config)
    assert len(found) == len(notes)
    assert all(re.search(wanted, note) for wanted, note in zip(notes, found, strict=True))


def test_the_script_says_so_before_its_first_step(tmp_path, capsys):
    # It stops at the data, which comes later than what is said.
    config = tiny_config(tmp_path / "none", tmp_path / "run", "--optimizer.warmup_steps=6")
    with pytest.raises(ValueError, match="folder of a built set"):
        script.main(config)
    assert capsys.readouterr().out.count("The learning rate never reaches its peak in this run") == 1


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_every_shipped_configuration_can_work(path):
    config = load_config(PretrainConfig, path)
    refuse_what_cannot_work(config)
    assert what_never_happens(config) == []


@pytest.mark.parametrize("size", SIZES)
def test_each_size_has_three_stages_that_follow_one_another_with_the_same_network(size):
    pretrain, gram, highres = (
        load_config(PretrainConfig, CONFIGS / f"{size}_{stage}.yaml") for stage in ("pretrain", "gram", "highres")
    )
    assert pretrain.model.preset == size
    assert (gram.init.from_run, highres.init.from_run) == (pretrain.output, gram.output)
    assert (gram.init.take, highres.init.take) == ("everything", "teacher")
    for stage in (gram, highres):
        assert (stage.model, stage.dino_head, stage.ibot_head) == (
            pretrain.model,
            pretrain.dino_head,
            pretrain.ibot_head,
        )
    assert all(stage.batch.size * stage.batch.accumulate == 256 for stage in (pretrain, gram, highres))
    assert highres.crops.global_size > gram.crops.global_size == pretrain.crops.global_size


def test_a_stage_is_laid_over_by_the_cluster(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"base: [{CONFIGS}/vitl16_gram.yaml, {CONFIGS}/stages/cluster.yaml]\noutput: elsewhere\n")
    config = load_config(PretrainConfig, path)
    assert (config.output, config.batch.size, config.batch.accumulate) == ("elsewhere", 64, 1)
    assert config.steps == 20_000 and config.init.from_run == "outputs/vitl16/pretrain"


def test_the_last_stage_may_alternate_between_resolutions(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"base: [{CONFIGS}/vitl16_highres.yaml, {CONFIGS}/stages/resolutions.yaml]\n")
    config = load_config(PretrainConfig, path)
    refuse_what_cannot_work(config)
    assert [of.global_size for of in config.crops.variants] == [512, 768, 768, 768, 768]
    with pytest.raises(ValueError, match=r"crops.gram_size must be >= crops.global_size, which is 768; found 512"):
        sizes = "--crops={sizes: [{global_size: 512, gram_size: 512}, {global_size: 768, gram_size: 512}]}"
        stage = load_config(PretrainConfig, CONFIGS / "vitl16_gram.yaml", ["--crops.gram_size=null", sizes])
        refuse_what_cannot_work(stage)


def test_koleo_looks_for_no_more_neighbours_than_it_sees():
    two = ["--batch={size: 2, accumulate: 2}", "--losses.koleo_topk=3"]
    refuse_too_few_slices(load_config(PretrainConfig, None, [*two, "--losses.koleo_scope=step"]), 100, 1)
    with pytest.raises(ValueError, match=r"losses.koleo_topk must be < 2, the slices that KoLeo compares; found 3"):
        refuse_too_few_slices(load_config(PretrainConfig, None, two), 100, 1)
    grouped = load_config(PretrainConfig, None, ["--losses.koleo_ranks_per_group=2"])
    refuse_too_few_slices(grouped, 1000, 4)
    with pytest.raises(ValueError, match=r"koleo_ranks_per_group must be a divisor of 3, .*; found 2"):
        refuse_too_few_slices(grouped, 1000, 3)
