"""Write a backbone in a form that others read, and compare its tokens before it is there.

    dinox export RUN OUT                            a folder for AutoModel, with and without our code
    dinox export RUN OUT --format dinov3_vit        a folder as stock transformers saves it
    dinox export RUN OUT --format pth               backbone.pth: named tensors, read with weights_only=True
    dinox export RUN OUT --format meta              backbone.pth in the layout of Meta's releases
    dinox export RUN OUT --format onnx              model.onnx: any batch, height and width
    dinox export FILE.pth OUT --preset vits16       a released file in Meta's layout as a folder

SOURCE is a run, a checkpoint, a folder of transformers, a file of weights or an id on the Hub. What a format cannot
hold is refused by name, and nothing is written. A model card comes with `dinox publish`.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from ..hub.export import answer_table
from ..hub.formats import FORMATS, export_as


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, export, and say how far the tokens are from the checkpoint's."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE", help="the backbone")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder; an earlier export there is replaced")
    parser.add_argument("--format", default="dual", metavar="FORMAT", help=f"one of {', '.join(FORMATS)} (dual)")
    parser.add_argument("--preset", help="size of a file of weights without config.json, such as vits16 or vitl16")
    parser.add_argument(
        "--plain-at-extent",
        action="store_true",
        help="dual: accept that plain transformers takes every image for rope_extent_mm wide",
    )
    options = parser.parse_args(arguments)
    answers = export_as(options.format, options.source, options.out, options.preset, options.plain_at_extent)
    print("Read back and compared with the source, largest difference of any token:\n")
    print(answer_table(answers))
    print(f"\n{options.out} holds:")
    for path in sorted(path for path in options.out.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(options.out)!s:34s} {path.stat().st_size / 1e6:10,.2f} MB")
