"""Build a Parquet set of slices and nodules from DICOM series and LIDC XML, as TCIA ships them.

    python dataset_scripts/build_lidc_idri.py RAW OUT --workers 8

RAW is any folder that holds the DICOM files (zip archives are read in place) and the XML files, in any layout. OUT is
what `datasets.load_dataset(OUT)` opens. A build that was interrupted goes on where it stopped: run the same command.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from dinox_hf.console import run_command
from dinox_hf.data.builder import MEGABYTE, build_dataset


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, build, and say what was built."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder of DICOM series and XML files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the set")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1); each holds one series")
    parser.add_argument("--overwrite", action="store_true", help="replace a set built from other input")
    parser.add_argument("--ignore-annotations", action="store_true", help="build without nodules")
    parser.add_argument("--skip-refused", action="store_true", help="leave out damaged and incomplete series")
    parser.add_argument("--max-gap-mm", type=float, help="accept uneven gaps between slices up to this size")
    options = vars(parser.parse_args(arguments))
    out = options["out"]
    print_summary(build_dataset(**options), out)


def print_summary(report: dict, out: Path) -> None:
    """Say in a few lines what the set holds and what to do next."""
    megabytes = sum(path.stat().st_size for path in out.rglob("*.parquet")) / MEGABYTE
    readers = ", ".join(f"{number}: {count}" for number, count in report["nodules_by_num_readers"].items())
    print(
        f"\n{report['num_patients']} patients, {report['num_series']} series, {report['num_slices']:,} slices, "
        f"{megabytes:,.1f} MB\n"
        f"{report['num_nodules']} nodules of 3 mm or more"
        + (f" (by number of readers {readers})" if readers else "")
        + "; "
        f"{report['num_small_nodules']} marks of smaller ones and {report['num_non_nodules']} of non-nodules are "
        f"counted, not listed"
    )
    for split, row in report["splits"].items():
        print(f"  {split}: {row['num_patients']} patients, {row['num_slices']:,} slices, {row['num_nodules']} nodules")
    for warning in report["warnings"][:5]:
        print(f"  warning: {warning}")
    refused = sum(rejection["num_files"] for rejection in report["rejections"])
    print(f"{refused} files are not in the set, {len(report['warnings'])} warnings: see {out / 'ingest_report.json'}")
    print(f"\nNext: accelerate launch training/pretrain.py --data.folder={out}")


if __name__ == "__main__":
    run_command(main)
