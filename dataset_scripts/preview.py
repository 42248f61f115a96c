"""Draw a contact sheet of a built set: python dataset_scripts/preview.py SET.

The same as `dinox preview`; dinox_hf/cli/preview.py has the arguments.
"""

from dinox_hf.cli.preview import main
from dinox_hf.console import run_command

if __name__ == "__main__":
    run_command(main)
