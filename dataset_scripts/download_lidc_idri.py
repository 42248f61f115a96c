"""Download LIDC-IDRI, chest CT of 1,010 patients, from the public buckets of Imaging Data Commons.

    python dataset_scripts/download_lidc_idri.py data/lidc_raw --dry-run
    python dataset_scripts/download_lidc_idri.py data/lidc_raw --with-segmentations

No account is needed. All of it is some 130 GB; --patients, --num-patients and --max-gb make it less. A download that
was interrupted goes on where it stopped: run the same command. Needs `pip install "dinox-hf[download]"`.
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from dinox_hf.console import run_command
from dinox_hf.data.sources.lidc_catalogue import (
    GIGABYTE,
    RemoteSeries,
    Selection,
    read_catalogue,
    select,
    sum_bytes,
)
from dinox_hf.data.sources.lidc_download import MIRRORS, download, find_missing, free_bytes
from dinox_hf.data.sources.lidc_idri import collection_of

XML_PAGE = "https://www.cancerimagingarchive.net/collection/lidc-idri/"


def main(arguments: Sequence[str] | None = None) -> None:
    """Choose, say what was chosen, download it, and say what comes next."""
    options = parse(arguments)
    catalogue, version = read_catalogue()
    selection = select(
        catalogue,
        patients=options.patients,
        num_patients=options.num_patients,
        max_gb=options.max_gb,
        with_segmentations=options.with_segmentations,
    )
    missing = find_missing(selection.chosen, options.out)
    print(f"LIDC-IDRI on Imaging Data Commons, by the index of release {version}\n")
    print_selection(selection)
    print_source(selection.chosen)
    print(
        f"{options.out}: {sum_bytes(selection.chosen) / GIGABYTE - sum_bytes(missing) / GIGABYTE:,.2f} GB are there, "
        f"{sum_bytes(missing) / GIGABYTE:,.2f} GB in {len(missing):,} series are missing; "
        f"{free_bytes(options.out) / GIGABYTE:,.1f} GB of the disk are free"
    )
    if options.dry_run:
        print("Dry run: nothing was downloaded, and the network was not asked.")
        return
    try:
        download(selection.chosen, options.out, options.mirror)
    except KeyboardInterrupt:
        print("\nWhole files are kept: run the same command again to go on.")
        raise
    print_next(options)


def parse(arguments: Sequence[str] | None) -> Namespace:
    """Options of the command line."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the download, new or to be continued")
    parser.add_argument(
        "--patients",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        metavar="ID,ID",
        help="only these, such as LIDC-IDRI-0001,LIDC-IDRI-0003",
    )
    parser.add_argument("--num-patients", type=int, metavar="N", help="only the first N")
    parser.add_argument("--max-gb", type=float, metavar="GB", help="whole patients in order, up to this size")
    parser.add_argument(
        "--with-segmentations", action="store_true", help="also the readers' nodules as DICOM SEG and SR series"
    )
    parser.add_argument("--mirror", choices=MIRRORS, default="aws", help="whose copy of the bucket (default aws)")
    parser.add_argument("--dry-run", action="store_true", help="print counts and sizes, without network")
    return parser.parse_args(arguments)


def print_selection(selection: Selection) -> None:
    """Patients, series, files and gigabytes of what was chosen, and what the limit left out."""
    print(f"{'':10}{'patients':>10}{'series':>10}{'files':>12}{'GB':>10}")
    rows = {
        modality: [series for series in selection.chosen if series.modality == modality]
        for modality in ("CT", "SEG", "SR")
    }
    for name, series in [*rows.items(), ("total", selection.chosen), ("left out", selection.left_out)]:
        # One kind of series is its own total.
        if series and (name != "total" or sum(map(bool, rows.values())) > 1):
            print(
                f"{name:10}{len({entry.patient_id for entry in series}):>10,}{len(series):>10,}"
                f"{sum(entry.num_files for entry in series):>12,}{sum_bytes(series) / GIGABYTE:>10,.2f}"
            )
    if selection.left_out:
        print(f"The limit leaves out {selection.left_out[0].patient_id} to {selection.left_out[-1].patient_id}.")


def print_source(series: Sequence[RemoteSeries]) -> None:
    """Licence and citation, once."""
    licences = sorted({entry.license for entry in series})
    dois = sorted({entry.doi for entry in series})
    print(f"\nLicence: {', '.join(licences)}. Data: {', '.join(f'doi.org/{doi}' for doi in dois)}")
    print(f"Cite: {collection_of([series[0].patient_id])['citation']}\n")


def print_next(options: Namespace) -> None:
    """The next command, with the nodules where they are."""
    build = f"python dataset_scripts/build_lidc_idri.py {options.out} {options.out}_set"
    if options.with_segmentations:
        print(f"\nComplete. Next: {build}")
        print("Nodules of 3 mm or more come from the SEG and SR series; smaller marks are in TCIA's XML only:")
    else:
        print("\nComplete. These are the scans; the nodules are not in these buckets as XML. Either add")
        print("--with-segmentations to this command (nodules of 3 mm or more, 2.5 GB for all), or take TCIA's XML:")
    print(f"unpack LIDC-XML-only.zip (9 MB) from {XML_PAGE} into a folder XML, and")
    print(f"{build} --annotations XML")


if __name__ == "__main__":
    run_command(main)
