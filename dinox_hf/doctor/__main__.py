"""Entry point of `python -m dinox_hf.doctor`."""

import sys

from .command import main

if __name__ == "__main__":
    sys.exit(main())
