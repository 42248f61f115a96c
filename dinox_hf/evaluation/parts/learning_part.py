"""Did the loop learn, in an evaluation: the run's own curves and what came out, against four criteria."""

from ..backbones.learning import learning_criteria, learning_facts
from ..pages import figures
from ..pages.tables import figure, table
from ..probes.probe_suite import BACKBONE
from .bench import Bench
from .part import Part, Report

CAPTION = "Training curves. A CLS loss at log K means that the student learned nothing from the teacher."


def _measure(bench: Bench, report: Report) -> Report:
    facts = learning_facts(bench.subject.config, bench.subject.records)
    if bench.subject.records and facts["log_k"] is not None:
        figures.draw_curves(bench.figure("training_curves"), bench.subject.records, facts["log_k"])
    gain = report["cls_gain"] and report["cls_gain"]["gain"]
    collapse = report["collapse"]
    rank = collapse.get("slices", collapse["nodules"])[BACKBONE]["effective_rank"]
    return {"learning": facts | {"criteria": learning_criteria(facts, rank, gain)}}


def _verdict(report: Report) -> list[str]:
    criteria = report["learning"]["criteria"]
    measured = [criterion for criterion in criteria if criterion["reached"] is not None]
    reached = [criterion for criterion in measured if criterion["reached"]]
    return [
        f"Learning: {len(reached)} of {len(measured)} measured criteria reached"
        + "".join(f"; **not reached: {c['name']}**" for c in measured if not c["reached"])
        + "".join(f"; not measured: {c['name']}" for c in criteria if c["reached"] is None)
        + "."
    ]


def _section(report: Report) -> str:
    learning = report["learning"]
    rows = []
    for criterion in learning["criteria"]:
        value = "not measured" if criterion["value"] is None else f"{criterion['value']:.3f}"
        reached = {True: "yes", False: "**no**", None: "–"}[criterion["reached"]]
        rows.append([criterion["name"], criterion["asks"], value, reached])
    text = "## Does the loop learn?\n\n" + table(["criterion", "asks", "value", "reached"], rows)
    if learning["log_k"] is None or learning["last_step"] is None:
        return f"{text}\n\nThe backbone comes without its training curves."
    final = ", ".join(f"{name} {value:.3f}" for name, value in learning["final"].items() if value is not None)
    text += (
        f"\n\nAfter {learning['last_step']} steps with {learning['num_prototypes']} prototypes "
        f"(log K = {learning['log_k']:.3f} nats), mean of the last tenth of the log: {final}."
    )
    return "\n\n".join(filter(None, [text, figure(report, "training_curves", CAPTION)]))


LEARNING = Part("learning", _measure, _section, _verdict)
