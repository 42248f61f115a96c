"""Make synthetic chest CT with nodules: DICOM series with LIDC-style XML, as TCIA ships the real ones.

    python dataset_scripts/make_phantom.py data/phantom_raw

Forty patients take some 200 MB and half a minute on two cores. The set depends on --patients, --size and --seed only.
"""

import argparse
from pathlib import Path

from dinox_hf.console import run_command
from dinox_hf.data.sources.phantom_set import RECORD, PhantomConfig, make_phantom_set


def main() -> None:
    """Parse the command line, make the set, say what comes next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--patients", type=int, default=PhantomConfig.patients)
    parser.add_argument("--size", type=int, default=PhantomConfig.size, help="rows and columns of a slice")
    parser.add_argument("--seed", type=int, default=PhantomConfig.seed)
    parser.add_argument("--workers", type=int, default=2, help="processes; changes nothing but the time")
    args = parser.parse_args()

    config = PhantomConfig(patients=args.patients, size=args.size, seed=args.seed)
    if make_phantom_set(args.out, config, args.workers):
        print(f"{config.patients} patients in {args.out}; ground truth in {args.out / RECORD}")
    else:
        print(f"{args.out} is already made: {config}")
    print(f"next: python dataset_scripts/build_lidc_idri.py {args.out} {args.out.with_name(args.out.name + '_set')}")


if __name__ == "__main__":
    run_command(main)
