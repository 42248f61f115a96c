from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from dinox_hf.pretraining.config import PretrainConfig
from dinox_hf.pretraining.config_file import flat, load_config, to_dict


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1.0
    count: int | None = None
    mode: Literal["no", "yes"] = "no"


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str = "a"
    is_fast: bool = False
    sizes: tuple[float, float] = (0.5, 1.0)
    trackers: tuple[str, ...] = ("tensorboard",)
    extra: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_defaults_yaml_and_arguments_apply_in_that_order(tmp_path):
    path = written(tmp_path, "name: b\ninner: {rate: 2, count: 3}\n")
    config = load_config(Outer, path, ["--inner.rate=4"])
    assert config == Outer(name="b", inner=Inner(rate=4.0, count=3))


def test_a_number_in_exponent_form_is_text_to_yaml_and_a_float_to_us(tmp_path):
    assert yaml.safe_load("rate: 1e-4") == {"rate": "1e-4"}
    assert load_config(Outer, written(tmp_path, "inner: {rate: 1e-4}")).inner.rate == 1e-4
    assert load_config(Outer, None, ["--inner.rate=3e-3"]).inner.rate == 3e-3


def test_an_unquoted_no_is_the_choice_no_and_not_false():
    assert load_config(Outer, None, ["--inner.mode=no"]).inner.mode == "no"


def test_lists_null_and_free_groups_pass(tmp_path):
    config = load_config(
        Outer, None, ["--sizes=[0.1,1]", "--trackers=[]", "--inner.count=null", "--extra.patch_size=8"]
    )
    assert config.sizes == (0.1, 1.0) and config.trackers == () and config.inner.count is None
    assert config.extra == {"patch_size": 8}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--crops.num_locals=4", r"no field `crops.num_locals`. Did you mean `crops.num_local`\? Fields: .*field_mm"),
        ("--stepps=4", r"no field `stepps`. Did you mean `steps`"),
        ("--steps=many", r"`steps` must be of type int; found 'many'"),
        ("--steps=1.5", r"`steps` must be a whole number; found 1.5"),
        ("--precision=fp16", r"one of 'auto', 'no', 'bf16'; found 'fp16'"),
        ("--crops=4", r"`crops` must be a group of fields; found 4"),
        ("--crops.global_scale=[1]", r"a list of 2; found \[1\]"),
        ("--batch.size=true", r"`batch.size` must be of type int; found True"),
        ("--model.untie_local_cls_norm=1", r"must be true or false; found 1"),
        ("--seed=null", r"`seed` must be of type int; found None"),
        ("--data.z_strid=2", r"no field `data.z_strid`. Did you mean `data.z_stride`"),
        ("--data.z_stride=0", r"data.z_stride must be >= 1; found 0"),
        ("--data.neighbour_mm=5", r"data.neighbour_mm must be null with intensity.channels: windows; found 5.0"),
        ("--data={folders: [{folder: a, wait: 2}]}", r"no field `data.folders\[0\].wait`. Did you mean .*weight"),
        ("--data={folders: [{folder: a, weight: 0}]}", r"weight must be > 0; found 0.0.*leave out a set"),
        ("--data={folders: [{weight: 1}]}", r"folder must be a folder; found ''.*write \{folder"),
        ("--data={folder: b, folders: [{folder: a}]}", r"data.folder must be left out; found 'b'.*--data.folder=null"),
        ("--seed", r"form --a.b=value; found '--seed'"),
        ("--seed=-1", r"seed must be >= 0; found -1"),
        ("--losses.student_temperature=0", r"losses.student_temperature must be > 0; found 0.0.*recipe uses 0.1"),
        ("--losses.koleo=-0.1", r"losses.koleo must be >= 0; found -0.1"),
        ("--losses.dino=.nan", r"losses.dino must be >= 0; found nan"),
        ("--losses.local_end=.inf", r"losses.local_end must be >= 0; found inf"),
        ("--losses={dino: 0, ibot: 0, koleo: 0}", r"losses.dino, ibot, koleo must be > 0; .* nothing to learn"),
        ("--gram.weight=-1", r"gram.weight must be >= 0; found -1.0"),
        ("--gram.first_step=-1", r"gram.first_step must be >= 0; found -1"),
        ("--teacher.temperature_warmup_steps=-1", r"teacher.temperature_warmup_steps must be >= 0; found -1"),
        ("--optimizer.lr=.inf", r"optimizer.lr must be > 0; found inf"),
        ("--optimizer.lr_end=-1e-6", r"optimizer.lr_end must be >= 0; found -1e-06"),
        ("--optimizer.warmup_steps=-1", r"optimizer.warmup_steps must be >= 0; found -1"),
        ("--optimizer.weight_decay=-0.04", r"optimizer.weight_decay must be >= 0; found -0.04"),
        ("--optimizer.weight_decay_end=-0.4", r"optimizer.weight_decay_end must be >= 0; found -0.4"),
        ("--optimizer.freeze_last_layer_steps=-1", r"optimizer.freeze_last_layer_steps must be >= 0; found -1"),
        ("--optimizer.beta1=1", r"optimizer.beta1 must be >= 0 and < 1; found 1.0"),
        ("--optimizer.beta2=-0.1", r"optimizer.beta2 must be >= 0 and < 1; found -0.1"),
        ("--optimizer.layerwise_decay=0", r"optimizer.layerwise_decay must be > 0 and <= 1; found 0.0"),
        ("--optimizer.layerwise_decay=1.1", r"optimizer.layerwise_decay must be > 0 and <= 1; found 1.1"),
        ("--optimizer.patch_embed_lr_multiplier=0", r"optimizer.patch_embed_lr_multiplier must be > 0; found 0.0"),
        ("--dino_head.num_prototypes=1", r"dino_head.num_prototypes must be >= 2; found 1"),
        ("--ibot_head.hidden_dim=0", r"ibot_head.hidden_dim must be >= 1; found 0"),
        ("--ibot_head.bottleneck_dim=-8", r"ibot_head.bottleneck_dim must be >= 1; found -8"),
        ("--dino_head.num_layers=0", r"dino_head.num_layers must be >= 1; found 0"),
        ("--model.overrides.patch_size=0", r"patch_size must be >= 1; found 0"),
        ("--model.overrides.drop_path_rate=1.0", r"drop_path_rate must be >= 0 and < 1; found 1.0"),
    ],
)
def test_a_mistake_says_what_was_expected_and_what_was_found(override, message):
    with pytest.raises(ValueError, match=message):
        load_config(PretrainConfig, None, [override])


def test_values_at_the_edge_of_their_range_pass():
    edges = ["--losses={ibot: 0, koleo: 0, local: 0}", "--gram.weight=0", "--teacher.temperature_warmup_steps=0"]
    edges += ["--optimizer={lr_end: 0, warmup_steps: 0, weight_decay: 0, weight_decay_end: 0, beta1: 0}"]
    edges += ["--optimizer.layerwise_decay=1", "--ibot_head={num_layers: 1, hidden_dim: 1, bottleneck_dim: 1}"]
    load_config(PretrainConfig, None, [*edges, "--model.overrides={drop_path_rate: 0, num_register_tokens: 0}"])


def test_values_out_of_range_name_the_field():
    with pytest.raises(ValueError, match=r"batch.size must be >= 2; found 1"):
        load_config(PretrainConfig, None, ["--batch.size=1"])


def test_a_missing_file_lists_its_neighbours(tmp_path):
    written(tmp_path, "name: b")
    with pytest.raises(ValueError, match=r"found no file at .*nun.yaml.*run.yaml"):
        load_config(Outer, tmp_path / "nun.yaml")


def test_a_file_that_is_no_mapping_is_refused(tmp_path):
    with pytest.raises(ValueError, match="found a list"):
        load_config(Outer, written(tmp_path, "- 1"))


def test_what_is_written_reads_back_equal(tmp_path):
    config = load_config(PretrainConfig, None, ["--crops.field_mm=64", "--model.overrides.patch_size=8"])
    path = written(tmp_path, yaml.safe_dump(to_dict(config)))
    assert load_config(PretrainConfig, path) == config


def test_several_sets_are_read_back_with_their_weights_and_the_first_as_folder(tmp_path):
    override = "--data={folders: [{folder: a, weight: 3}, {folder: b, split: test}]}"
    config = load_config(PretrainConfig, None, [override])
    assert [(part.folder, part.weight, part.split) for part in config.data.sets] == [
        ("a", 3, "train"),
        ("b", 1, "test"),
    ]
    assert config.data.folder == "a"
    path = written(tmp_path, yaml.safe_dump(to_dict(config)))
    assert load_config(PretrainConfig, path) == config


def test_without_a_folder_the_way_to_one_is_told():
    with pytest.raises(ValueError, match=r"data.folder should name a built set; found none.*--data.folder="):
        _ = load_config(PretrainConfig).data.sets


def test_nested_values_flatten_to_their_dotted_names():
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [2], "e": {}}


def test_a_base_is_changed_name_by_name_and_later_files_win(tmp_path):
    (tmp_path / "parts").mkdir()
    written(tmp_path / "parts", "name: b\nsizes: [0.1, 0.2]\ninner: {rate: 2, count: 3}\nextra: {a: 1, b: 1}\n")
    (tmp_path / "other.yaml").write_text("base: parts/run.yaml\nextra: {b: 2}\ninner: {count: 4}\n")
    path = tmp_path / "last.yaml"
    path.write_text("base: [parts/run.yaml, other.yaml]\nsizes: [0.3, 0.4]\n")
    config = load_config(Outer, path, ["--inner.mode='yes'"])
    assert config == Outer(
        name="b", sizes=(0.3, 0.4), extra={"a": 1, "b": 2}, inner=Inner(rate=2.0, count=4, mode="yes")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: run.yaml", r"must not lead back to its own file; found run.yaml -> run.yaml"),
        ("base: 3", r"`base` in .*run.yaml must be a file or a list of them; found 3"),
        ("base: none.yaml", r"found no file at .*none.yaml. Files there: .*run.yaml"),
        ("base: other.yaml", r"no field `inner.rates`. Did you mean `inner.rate`"),
    ],
)
def test_a_wrong_base_is_refused(text, message, tmp_path):
    (tmp_path / "other.yaml").write_text("inner: {rates: 2}")
    with pytest.raises(ValueError, match=message):
        load_config(Outer, written(tmp_path, text))


def test_a_number_in_exponent_form_is_a_number_in_a_free_group_too():
    overrides = load_config(PretrainConfig, None, ["--model.overrides={layer_norm_eps: 1e-05}"]).model.overrides
    assert overrides == {"layer_norm_eps": 1e-5}


def test_init_may_be_written_in_short():
    config = load_config(PretrainConfig, None, ["--init=facebook/dinov3-vits16"])
    assert config == load_config(PretrainConfig, None, ["--init.weights=facebook/dinov3-vits16"])
    assert config.init.weights == "facebook/dinov3-vits16"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--init={weights: a, from_run: b}", r"init.weights must be null with init.from_run; found 'a'"),
        ("--init.step=3", r"init.step must be null; found 3.*checkpoint of from_run"),
        ("--init={weights: a, gram_step: 3}", r"init.gram_step must be null; found 3"),
        ("--init={weights: a, take: everything}", r"init.from_run must be a run with init.take: everything"),
    ],
)
def test_a_run_starts_from_one_thing(override, message):
    with pytest.raises(ValueError, match=message):
        load_config(PretrainConfig, None, [override])
