"""Draw a contact sheet of a built set: slices in three windows, nodule outlines, and what all its series look like.

    dinox preview data/lidc_set

The picture shows at once whether orientation, spacing, Hounsfield units and annotations are right. It reads the small
columns of the whole set and the pixels of some slices, and changes nothing.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from ..data.preview.overview import SetOverview
from ..data.preview.sheet import draw_contact_sheet


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, draw, and say where the picture is."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of a built set")
    parser.add_argument(
        "--series",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        metavar="UID,UID",
        help="show these series (default: four, spread over the patients)",
    )
    parser.add_argument("--save", type=Path, metavar="FILE.png", help="the picture (default OUT_preview.png)")
    options = parser.parse_args(arguments)
    folder = options.out.resolve()
    # Beside the set, not in it: a picture of patients should not be published by accident with the set.
    path = options.save or folder.with_name(f"{folder.name}_preview.png")
    print(draw_contact_sheet(SetOverview(options.out), path, options.series))
