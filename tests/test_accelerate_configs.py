import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from dinox_hf.model.modeling_dinov3_ct import Dinov3CTLayer
from dinox_hf.pretraining.projection_head import ProjectionHead

FOLDER = Path(__file__).parents[1] / "accelerate_configs"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.yaml"))


def launch_arguments(name, *flags):
    """What `accelerate launch` makes of a configuration file, before it starts anything."""
    arguments = launch_command_parser().parse_args(["--config_file", str(FOLDER / name), *flags, "train.py"])
    return _validate_launch_command(arguments)[0]


def launch_commands(page):
    """Every `accelerate launch` of a page in docs/, on one line."""
    text = (FOLDER.parent / "docs" / page).read_text().replace("\\\n", " ")
    return re.findall(r"^accelerate launch .*$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_knows_every_key(name):
    config = load_config_from_file(str(FOLDER / name))
    assert isinstance(config.distributed_type, DistributedType)


@pytest.mark.parametrize("name", CONFIGS)
def test_precision_is_left_to_the_run(name):
    assert load_config_from_file(str(FOLDER / name)).mixed_precision is None


def test_cpu_config_starts_one_process_without_a_gpu():
    arguments = launch_arguments("cpu.yaml")
    assert (arguments.use_cpu, arguments.num_processes, arguments.multi_gpu) == (True, 1, False)


def test_single_gpu_config_leaves_the_choice_of_card_to_the_machine():
    arguments = launch_arguments("single_gpu.yaml")
    assert (arguments.use_cpu, arguments.num_processes, arguments.multi_gpu) == (False, 1, False)
    assert arguments.gpu_ids == "all"


def test_ddp_config_asks_for_the_number_of_processes():
    with pytest.raises(ValueError, match="--num_processes"):
        launch_arguments("ddp.yaml")
    arguments = launch_arguments("ddp.yaml", "--num_processes", "4")
    assert (arguments.multi_gpu, arguments.num_processes) == (True, 4)


def test_fsdp2_config_shards_classes_that_our_networks_have():
    config = load_config_from_file(str(FOLDER / "fsdp2.yaml")).fsdp_config
    names = config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert config["fsdp_version"] == 2
    assert names == [Dinov3CTLayer.__name__, ProjectionHead.__name__]


@pytest.mark.parametrize("command", launch_commands("clusters.md"))
def test_accelerate_takes_the_commands_of_the_page_on_clusters(command):
    config, *flags = re.search(r"--config_file accelerate_configs/(\S+) (.*?) training/pretrain.py", command).groups()
    arguments = launch_arguments(config, *flags[0].split())
    assert arguments.num_processes == 8 * arguments.num_machines
    assert arguments.multi_gpu == (config == "ddp.yaml") and arguments.use_fsdp == (config == "fsdp2.yaml")
    if arguments.num_machines > 1:
        assert (arguments.machine_rank, arguments.main_process_ip) == (0, "first-machine")
