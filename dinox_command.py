"""The console command `dinox`: a thin name over functions of dinox_hf, one for each thing that needs no checkout.

It lies beside the package, not in it: importing dinox_hf makes transformers know our models, and so imports torch for
some seconds. `dinox --help` answers at once.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

# name: (module whose main takes the arguments, what it does)
COMMANDS = {
    "doctor": ("dinox_hf.doctor.command", "what this machine can do for pretraining, and what to mend"),
    "plan": ("dinox_hf.pretraining.memory", "the memory that a run needs, and the largest batch that fits"),
    "build": ("dinox_hf.cli.build", "scans and LIDC annotations to a Parquet set for load_dataset"),
    "preview": ("dinox_hf.cli.preview", "a contact sheet of a built set"),
    "evaluate": ("dinox_hf.cli.evaluate", "a backbone's probes, collapse and attention beside their controls"),
    "export": ("dinox_hf.cli.export", "a backbone as a folder, a .pth file, Meta's layout or ONNX, compared"),
    "publish": ("dinox_hf.cli.publish", "a run, a head or a built set to the Hub; rehearsed unless --push is given"),
}
PRETRAIN = """\
`dinox pretrain` needs a checkout: pretraining is a script to be read and changed, which Accelerate starts. In one:

    accelerate launch training/pretrain.py training/configs/vits16_trial.yaml --data.folder=SET
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; 2 for a mistake in the command line, else what the command returns."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(help_text())
    elif name == "--version":
        print(f"dinox {version('dinox-hf')}")
    elif name == "pretrain":
        sys.exit(PRETRAIN)
    elif name not in COMMANDS:
        print(f"error: dinox has no command {name!r}. Choose from: {', '.join(COMMANDS)}.", file=sys.stderr)
        sys.exit(2)
    else:
        run(name, arguments[1:])


def help_text() -> str:
    """All commands on one screen."""
    lines = [f"  dinox {name:10s}{what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "DINO-X: DINOv3 pretraining on CT, from scans to a published model.",
            "",
            *lines,
            "  dinox pretrain  says what it takes: a checkout, and `accelerate launch training/pretrain.py`",
            "",
            "`dinox COMMAND --help` tells about one. Exit codes: 0 done, 1 a check failed, 2 a mistake to mend.",
        ]
    )


def run(name: str, arguments: list[str]) -> None:
    """Import one command, with all that it needs, and hand it its arguments."""
    from dinox_hf.console import run_command

    command = importlib.import_module(COMMANDS[name][0])
    # argparse takes the name for its messages from here.
    sys.argv = [f"dinox {name}", *arguments]
    run_command(lambda: sys.exit(command.main(arguments)))


if __name__ == "__main__":
    main()
