"""Build a Parquet set of slices, nodules and marks: python dataset_scripts/build_lidc_idri.py RAW OUT --workers 8.

The same as `dinox build`; dinox_hf/cli/build.py has the arguments, and what RAW and OUT are.
"""

from dinox_hf.cli.build import main
from dinox_hf.console import run_command

if __name__ == "__main__":
    run_command(main)
