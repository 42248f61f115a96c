"""Evaluate a backbone beside its controls: python training/evaluate.py BACKBONE [--data SET] [--out DIR].

The same as `dinox evaluate`; dinox_hf/cli/evaluate.py has the arguments.
"""

from dinox_hf.cli.evaluate import main
from dinox_hf.console import run_command

if __name__ == "__main__":
    run_command(main)
