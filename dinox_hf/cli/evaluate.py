"""Evaluate a backbone beside its controls: dinox evaluate BACKBONE [--data SET] [--out DIR].

BACKBONE is a run folder, a transformers folder, a Hub id, or random:vits16 for random weights. SET is a built set with
nodules, an npz of nodule patches, or a folder with one, such as --data $DINOX_REAL_DATA/nodules.
Killed, the same command goes on: features and scores are kept beside the report.

With --watch, every new checkpoint of a run is evaluated as it appears, until its last step or Ctrl-C: by a second
machine, where it shares the folder of the run.
"""

import argparse
import json
from collections.abc import Sequence

from ..evaluation.backbones.subject import EvaluationSettings
from ..evaluation.parts.probe_part import cls_gain_line
from ..evaluation.probes.before_after import before_after_line
from ..evaluation.suite import evaluate
from ..evaluation.watch import LINES, watch_run
from ..pretraining.checkpoint_folders import damage


def main(arguments: Sequence[str] | None = None) -> None:
    """Probe, collapse test and attention test of one backbone; ends by naming the files to look at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone", help="a run folder, a transformers folder, a Hub id, or random:PRESET")
    parser.add_argument(
        "--data", help="a built set with nodules or an npz of patches (default: what the run was trained on)"
    )
    parser.add_argument("--out", help="folder to write (default: RUN/evaluation, for other data …/on_NAME)")
    parser.add_argument("--unseen-only", action="store_true", help="leave out patients whose images pretraining saw")
    parser.add_argument(
        "--field-mm", type=float, default=32.0, help="side of the square around a nodule (default: 32)"
    )
    parser.add_argument("--size", type=int, help="its side in pixels (default: the global crops of the run)")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions of the cross-validation (default: 5)")
    parser.add_argument("--watch", action="store_true", help="evaluate every checkpoint of the run as it appears")
    parser.add_argument("--full", action="store_true", help="with --watch: ask everything (default: the probes)")
    parser.add_argument("--once", action="store_true", help="with --watch: evaluate what is there and end")
    parser.add_argument("--every", type=float, default=30.0, help="with --watch: seconds between looks (default: 30)")
    options = parser.parse_args(arguments)

    settings = EvaluationSettings(
        field_mm=options.field_mm,
        size_px=options.size,
        num_seeds=options.seeds,
        unseen_only=options.unseen_only,
    )
    if options.watch:
        asked = options.backbone, options.data, options.out, settings, options.full
        watch = watch_run(*asked, damage, options.every)
        lines = watch.until_the_end(options.once)
        print(f"\nCheckpoints: {watch.out / LINES} ({len(lines)})\nFigure:      {watch.out / 'watch.png'}")
        return
    out = evaluate(options.backbone, options.data, options.out, settings)

    report = json.loads((out / "report.json").read_text())
    print(f"\n{report['data']['seen_in_pretraining']}\n{cls_gain_line(report['cls_gain'])}")
    if report["before_after"]:
        print(before_after_line(report["before_after"]))
    for criterion in report["learning"]["criteria"]:
        value = "not measured" if criterion["value"] is None else f"{criterion['value']:.3f}"
        mark = {True: "reached", False: "NOT reached", None: "–"}[criterion["reached"]]
        print(f"  {criterion['name']:<36} {value:>12}  ({criterion['asks']}): {mark}")
    print(f"\nReport:  {out / 'report.html'} (as text: report.md, numbers: report.json)")
    for path in report["figures"].values():
        print(f"Figure:  {out / path}")
