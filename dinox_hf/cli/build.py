r"""Build a Parquet set of slices, nodules and marks from DICOM series and LIDC XML, as TCIA ships them.

    dinox build RAW OUT --workers 8

RAW is any folder that holds the scans (DICOM, also inside zip archives; NIfTI, NRRD, MetaImage) and the XML files, in
any layout. OUT is what `datasets.load_dataset(OUT)` opens. A build that was interrupted goes on where it stopped: run
the same command.

Several jobs build one set with --num-shards and --shard-index; each reads all headers (0.3 ms of one core per file, so
little more than a minute for LIDC-IDRI), and the one that finishes last puts the set in place:

    sbatch --array=0-7 --cpus-per-task=4 --wrap 'dinox build RAW OUT --workers 4 \
        --num-shards 8 --shard-index $SLURM_ARRAY_TASK_ID'

Two machines without a common disk build their shares each in an OUT of its own. Then copy the hidden folder of one
over that of the other, and run the command there once more, without --num-shards; what is missing is built:

    rsync -a machine2:OUT/.building/ OUT/.building/ && dinox build RAW OUT

Both must see the same RAW, times of change included (rsync -a keeps them): series whose files differ are built again.
Jobs on one disk need no care: the same job started twice stops with a message, and a killed one holds nothing up.

Of the headers, PatientID, SeriesInstanceUID and SOPInstanceUID are kept, nothing else that names anybody. Where these
could lead to a patient, --salt-file replaces them, and all paths in ingest_report.json, by hashes with a secret:

    (umask 077; openssl rand -hex 32 > ~/dinox_salt) && dinox build RAW OUT \
        --salt-file ~/dinox_salt

Keep the salt, and keep it to yourself: with it, other scans of the same patients get the same pseudonyms. Real names
of refused files are then printed here, and written nowhere.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from ..data.builder import build_dataset
from ..data.building.disk_space import MEGABYTE


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, build, and say what was built."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, metavar="RAW", help="folder of scans and XML files")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the set")
    parser.add_argument(
        "--annotations",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="annotation files that lie elsewhere than RAW, such as TCIA's XML archive; may be given several times",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1); each holds one series")
    parser.add_argument("--num-shards", type=int, default=1, metavar="N", help="jobs that build this set together")
    parser.add_argument("--shard-index", type=int, metavar="I", help="which of them this is, from 0")
    parser.add_argument("--salt-file", type=Path, metavar="FILE", help="replace ids and paths by hashes with a secret")
    parser.add_argument("--overwrite", action="store_true", help="replace a set built from other input")
    parser.add_argument("--ignore-annotations", action="store_true", help="build without nodules")
    parser.add_argument("--skip-refused", action="store_true", help="leave out damaged and incomplete series")
    parser.add_argument("--max-gap-mm", type=float, help="accept uneven gaps between slices up to this size")
    options = vars(parser.parse_args(arguments))
    if options["shard_index"] is None:
        if options["num_shards"] > 1:
            parser.error("--num-shards asks for --shard-index, from 0 to N - 1: which job of the array is this?")
        options["shard_index"] = 0
    report = build_dataset(**options)
    if report:
        print_summary(report, options["out"])


def print_summary(report: dict, out: Path) -> None:
    """Say in a few lines what the set holds and what to do next."""
    megabytes = sum(path.stat().st_size for path in out.rglob("*.parquet")) / MEGABYTE
    readers = ", ".join(f"{number}: {count}" for number, count in report["nodules_by_num_readers"].items())
    print(
        f"\n{report['num_patients']} patients, {report['num_series']} series, {report['num_slices']:,} slices, "
        f"{megabytes:,.1f} MB\n"
        f"{report['num_nodules']} nodules of 3 mm or more"
        + (f" (by number of readers {readers})" if readers else "")
        + f"; {report['num_small_nodules']} marks of smaller ones and {report['num_non_nodules']} of non-nodules"
    )
    for split, row in report["splits"].items():
        print(f"  {split}: {row['num_patients']} patients, {row['num_slices']:,} slices, {row['num_nodules']} nodules")
    for warning in report["warnings"][:5]:
        print(f"  warning: {warning}")
    refused = sum(rejection["num_files"] for rejection in report["rejections"])
    print(f"{refused} files are not in the set, {len(report['warnings'])} warnings: see {out / 'ingest_report.json'}")
    print(
        f"\nLook at it: dinox preview {out}\n"
        f"Train, in a checkout: accelerate launch training/pretrain.py training/configs/vits16_trial.yaml "
        f"--data.folder={out}"
    )
