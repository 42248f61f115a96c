"""Bring a run, a trained head or a built data set to the Hub; without --push nothing leaves this machine.

    python training/publish.py RUN --repo OWNER/NAME           dry run: every file, every check, the card
    python training/publish.py RUN --repo OWNER/NAME --push    private, in one commit; --public for everyone
    python training/publish.py RUN OUT                         a local folder that transformers loads

SOURCE is the output folder of training/pretrain.py, of training/finetune_classification.py or of a dataset script.
"""

import argparse
import tempfile
from pathlib import Path

from dinox_hf.console import run_command
from dinox_hf.hub.export import answer_table
from dinox_hf.hub.head_release import refuse_other_base
from dinox_hf.hub.packing import pack
from dinox_hf.hub.publish import publish_run
from dinox_hf.hub.push import PushOptions, push
from dinox_hf.hub.release import describe


def main() -> None:
    """Export to a folder, rehearse a push, or push."""
    arguments = read_arguments()
    if arguments.repo is None:
        export(arguments)
    else:
        release(arguments)


def export(arguments: argparse.Namespace) -> None:
    """Write the latest checkpoint of a run as a folder, and say what came out of it elsewhere."""
    answers = publish_run(arguments.source, arguments.out, arguments.plain_at_extent)
    print("Loaded where dinox_hf cannot be imported, compared with the training checkpoint:\n")
    print(answer_table(answers))
    print(f"\nHub folder: {arguments.out}; its model card is README.md.")


def release(arguments: argparse.Namespace) -> None:
    """Show what would be pushed; with --push, push it."""
    options = PushOptions(
        is_public=arguments.public,
        revision=arguments.revision,
        as_pull_request=arguments.pull_request,
        tag=arguments.tag,
    )
    with tempfile.TemporaryDirectory() as scratch:
        packed = pack(arguments.source, arguments.repo, Path(scratch), arguments.plain_at_extent, arguments.base)
        print(describe(packed, with_card=not arguments.push), flush=True)
        if not arguments.push:
            packed.refuse_failed_checks()
            how = "public" if options.is_public else "private"
            print(f"\nDry run: nothing has left this machine. --push sends this to {packed.repo}, {how}.")
            return
        if packed.kind == "head":
            packed.refuse_failed_checks()
            refuse_other_base(Path(scratch), arguments.source)
        done = push(packed, options)
    told = f"{done.num_changed} files changed" if done.num_changed else "Nothing has changed, so nothing was committed"
    print(f"\n{told}: {done.url} ({'private' if done.is_private else 'public'})")


def read_arguments() -> argparse.Namespace:
    """The command line; a mistake ends with how it is written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a run, a trained head, or a built data set")
    parser.add_argument("out", type=Path, nargs="?", help="a local folder; an earlier export there is replaced")
    parser.add_argument("--repo", metavar="OWNER/NAME", help="the repository on the Hub")
    parser.add_argument("--push", action="store_true", help="do it; without, only show what would be done")
    parser.add_argument("--public", action="store_true", help="for everyone to read; a new repository is private")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="push to this branch, made if missing")
    parser.add_argument("--pull-request", action="store_true", help="propose the change instead of making it")
    parser.add_argument("--tag", help="name the commit, such as v1.0")
    parser.add_argument("--base", metavar="OWNER/NAME", help="of an adapter: its base on the Hub")
    parser.add_argument(
        "--plain-at-extent",
        action="store_true",
        help="accept that plain transformers takes every image for rope_extent_mm wide (rope_coordinates: metric)",
    )
    arguments = parser.parse_args()
    if (arguments.repo is None) == (arguments.out is None):
        parser.error("give either a folder to write, or --repo OWNER/NAME")
    if arguments.pull_request and (arguments.revision != "main" or arguments.tag):
        parser.error("--pull-request is made against main and gets no --tag")
    return arguments


if __name__ == "__main__":
    run_command(main)
