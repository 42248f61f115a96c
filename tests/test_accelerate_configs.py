import re
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[1] / "accelerate_configs"
CONFIGS = sorted(path.name for path in FOLDER.glob("*.yaml"))


def launch_arguments(name, *flags):
    """What `accelerate launch` makes of a configuration file, before it starts anything."""
    arguments = launch_command_parser().parse_args(["--config_file", str(FOLDER / name), *flags, "train.py"])
    return _validate_launch_command(arguments)[0]


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


@pytest.mark.long
def test_ddp_config_gives_two_gloo_processes_on_a_machine_without_a_gpu(tmp_path, monkeypatch):
    script = tmp_path / "count.py"
    script.write_text(
        "from accelerate import Accelerator\n"
        "accelerator = Accelerator()\n"
        "print(f'rank {accelerator.process_index} of {accelerator.num_processes}', flush=True)\n"
    )
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    config = ["--config_file", str(FOLDER / "ddp.yaml"), "--num_processes", "2"]
    result = subprocess.run([*launch, *config, str(script)], capture_output=True, text=True, check=True)
    # Two processes may write into one line.
    assert set(re.findall(r"rank \d of \d", result.stdout)) == {"rank 0 of 2", "rank 1 of 2"}
