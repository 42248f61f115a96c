"""Evaluate a backbone beside its controls: python training/evaluate.py RUN [--data FOLDER] [--out DIR]."""

import argparse
import json

from dinox_hf.console import run_command
from dinox_hf.evaluation.before_after import before_after_line
from dinox_hf.evaluation.report import cls_gain_line
from dinox_hf.evaluation.subject import EvaluationSettings
from dinox_hf.evaluation.suite import evaluate


def main() -> None:
    """Probe, collapse test and attention test of one backbone; ends by naming the files to look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run folder of training/pretrain.py, a transformers folder, or a Hub id")
    parser.add_argument("--data", help="a built set with nodules (default: the one the run was trained on)")
    parser.add_argument("--out", help="folder to write (default: RUN/evaluation)")
    parser.add_argument(
        "--field-mm", type=float, default=32.0, help="side of the square around a nodule (default: 32)"
    )
    parser.add_argument("--size", type=int, help="its side in pixels (default: the global crops of the run)")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions of the cross-validation (default: 5)")
    arguments = parser.parse_args()

    settings = EvaluationSettings(field_mm=arguments.field_mm, size_px=arguments.size, num_seeds=arguments.seeds)
    out = evaluate(arguments.run, arguments.data, arguments.out, settings)

    report = json.loads((out / "report.json").read_text())
    print(f"\n{cls_gain_line(report['cls_gain'])}")
    if report["before_after"]:
        print(before_after_line(report["before_after"]))
    for criterion in report["learning"]["criteria"]:
        value = "not measured" if criterion["value"] is None else f"{criterion['value']:.3f}"
        mark = {True: "reached", False: "NOT reached", None: "–"}[criterion["reached"]]
        print(f"  {criterion['name']:<36} {value:>12}  ({criterion['asks']}): {mark}")
    print(f"\nReport:  {out / 'report.md'} (numbers: report.json)")
    for path in report["figures"].values():
        print(f"Figure:  {out / path}")


if __name__ == "__main__":
    run_command(main)
