"""Bring a run, a trained head or a built data set to the Hub; without --push nothing leaves this machine.

    dinox publish RUN --repo OWNER/NAME           rehearsal: every file, every check, the card
    dinox publish RUN --repo OWNER/NAME --push    private, in one commit; --public for everyone
    dinox publish RUN OUT                         a local folder that transformers loads, with its card

SOURCE is the output folder of training/pretrain.py, of training/finetune_classification.py or of a dataset script.
"""

import tempfile
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from ..hub.export import answer_table
from ..hub.head_release import refuse_other_base
from ..hub.packing import pack
from ..hub.publish import publish_run
from ..hub.push import PushOptions, push, refuse_without_token
from ..hub.release import describe


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line; export to a folder, rehearse a push, or push."""
    options = read_arguments(arguments)
    if options.repo is None:
        export(options)
    else:
        release(options)


def export(options: Namespace) -> None:
    """Write the latest checkpoint of a run as a folder, and say what came out of it elsewhere."""
    answers = publish_run(options.source, options.out, options.plain_at_extent)
    print("Loaded where dinox_hf cannot be imported, compared with the training checkpoint:\n")
    print(answer_table(answers))
    print(f"\nHub folder: {options.out}; its model card is README.md.")


def release(options: Namespace) -> None:
    """Show what would be pushed; with --push, push it."""
    how = PushOptions(
        is_public=options.public,
        revision=options.revision,
        as_pull_request=options.pull_request,
        tag=options.tag,
    )
    if options.push:
        refuse_without_token(HfApi())  # rather than after minutes of checks
    with tempfile.TemporaryDirectory() as scratch:
        packed = pack(options.source, options.repo, Path(scratch), options.plain_at_extent, options.base)
        print(describe(packed, with_card=not options.push), flush=True)
        if not options.push:
            packed.refuse_failed_checks()
            seen_by = "public" if options.public else "private"
            print(f"\nDry run: nothing has left this machine. --push sends this to {packed.repo}, {seen_by}.")
            return
        if packed.kind == "head":
            packed.refuse_failed_checks()
            refuse_other_base(Path(scratch), options.source)
        done = push(packed, how)
    told = f"{done.num_changed} files changed" if done.num_changed else "Nothing has changed, so nothing was committed"
    print(f"\n{told}: {done.url} ({'private' if done.is_private else 'public'})")


def read_arguments(arguments: Sequence[str] | None) -> Namespace:
    """The command line; a mistake ends with how it is written."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
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
    options = parser.parse_args(arguments)
    if (options.repo is None) == (options.out is None):
        parser.error("give either a folder to write, or --repo OWNER/NAME")
    if options.pull_request and (options.revision != "main" or options.tag):
        parser.error("--pull-request is made against main and gets no --tag")
    return options
