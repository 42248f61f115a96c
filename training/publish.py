"""Bring a run, a trained head or a built data set to the Hub: python training/publish.py SOURCE --repo OWNER/NAME.

The same as `dinox publish`; dinox_hf/cli/publish.py has the arguments. Without --push nothing leaves this machine.
"""

from dinox_hf.cli.publish import main
from dinox_hf.console import run_command

if __name__ == "__main__":
    run_command(main)
