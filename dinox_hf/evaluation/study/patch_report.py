"""The learning experiment as plain numbers, and the tables that are made of them and of nothing else."""

from typing import Any

from ..probes.linear_probe import ProbeScore
from ..probes.probe_suite import NO_POOLING
from .patch_probe import GRAM, PIXELS, PLAIN, POOLINGS, RANDOM, SIZE, Answer, gain, group_scores, groups

EXPECTED_GAIN = 0.10  # AUC, CLS tokens over those of random weights
_ARMS = (PLAIN, GRAM)
_COMPARED = ((PLAIN, RANDOM), (GRAM, RANDOM), (PLAIN, PIXELS), (GRAM, PIXELS), (GRAM, PLAIN))


def answers_record(answers: list[Answer]) -> dict[str, Any]:
    """Scores of every question and of every average, and the differences that matter, as plain numbers."""
    averages = group_scores(answers)
    in_half = {half: group_scores(answers, half) for half in answers[0].by_half}
    return {
        "questions": [
            {
                "name": answer.question.name,
                "rule": answer.question.rule.text,
                "counts": answer.counts,
                "not_measured": answer.not_measured,
                "scores": _scores(answer.scores),
            }
            for answer in answers
        ],
        "averages": [
            {
                "name": group,
                "questions": groups()[group],
                "scores": _scores(scores),
                "gains": [
                    {"of": of, "over": over, "pooling": pooling}
                    | _rounded(gain(scores[of, pooling], scores[over, NO_POOLING if over == PIXELS else pooling]))
                    for of, over in _COMPARED
                    for pooling in POOLINGS
                ],
                "cls_gains_by_half": [
                    {"half": half, "of": of} | _rounded(gain(found[group][of, "cls"], found[group][RANDOM, "cls"]))
                    for half, found in in_half.items()
                    for of in _ARMS
                ],
            }
            for group, scores in averages.items()
        ],
    }


def markdown(record: dict[str, Any]) -> str:
    """Everything the report says, from its numbers alone."""
    parts = [
        "\n".join(f"- {line}" for line in verdict(record)),
        *(_average(average) for average in record["averages"]),
        _questions(record, "All sizes", matched=False),
        _questions(record, "Within 6–14 mm", matched=True),
        _rules(record),
        _runs(record),
        _time(record),
    ]
    return "\n\n".join(parts) + "\n"


def verdict(record: dict[str, Any]) -> list[str]:
    """What came out against what was expected, a sentence each."""
    lines = []
    for average in record["averages"]:
        by_name = {(score["features"], score["pooling"]): score["auc"] for score in average["scores"]}
        for each in average["gains"]:
            if each["over"] == RANDOM and each["pooling"] == "cls":
                is_reached = each["gain"] >= EXPECTED_GAIN
                lines.append(
                    f"{average['name']}, CLS, {each['of']}: {_auc(by_name[each['of'], 'cls'])} against "
                    f"{_auc(by_name[RANDOM, 'cls'])} of random weights, {_difference(each)}; expected was "
                    f"+{EXPECTED_GAIN:.2f}: {'reached' if is_reached else 'NOT reached'}."
                )
        best = {arm: max(by_name[arm, pooling] for pooling in POOLINGS) for arm in (*_ARMS, RANDOM)}
        networks = ", ".join(f"{arm} {_auc(auc)}" for arm, auc in best.items())
        lines.append(
            f"{average['name']}, best tokens of each: {networks}; "
            f"{PIXELS} {_auc(by_name[PIXELS, NO_POOLING])}; {SIZE} {_auc(by_name[SIZE, NO_POOLING])}."
        )
    return lines


def _scores(scores: dict[tuple[str, str], ProbeScore]) -> list[dict[str, Any]]:
    return [
        {
            "features": features,
            "pooling": pooling,
            **_rounded({"auc": score.auc, "interval": [score.low, score.high], "by_network": list(score.auc_by_seed)}),
        }
        for (features, pooling), score in scores.items()
    ]


def _rounded(numbers: dict[str, Any]) -> dict[str, Any]:
    """Four decimals: more would only differ between machines."""
    return {
        name: [round(each, 4) for each in value] if isinstance(value, list) else round(value, 4)
        for name, value in numbers.items()
    }


def _average(average: dict[str, Any]) -> str:
    rows = [
        [
            score["features"],
            score["pooling"],
            _auc(score["auc"]),
            _interval(score["interval"]),
            ", ".join(map(_auc, score["by_network"])) if len(score["by_network"]) > 1 else "–",
        ]
        for score in average["scores"]
    ]
    differences = [
        [f"{each['of']} over {each['over']}", each["pooling"], f"{each['gain']:+.3f}", _signed(each["interval"])]
        for each in average["gains"]
    ]
    by_half = "; ".join(f"{each['half']}, {each['of']} {_difference(each)}" for each in average["cls_gains_by_half"])
    return (
        f"### {average['name'].capitalize()}\n\nAverage over {'; '.join(average['questions'])}.\n\n"
        + _table(["features", "tokens", "AUC", "95 % interval", "each network"], rows)
        + "\n\n"
        + _table(["difference", "tokens", "AUC", "95 % interval, paired"], differences)
        + f"\n\nCLS over random weights in the nodules of each half: {by_half}."
    )


def _questions(record: dict[str, Any], title: str, matched: bool) -> str:
    asked = [question for question in record["questions"] if ("mm" in question["name"]) == matched]
    measured = [question for question in asked if question["not_measured"] is None]
    lines = [f"- not measured: {q['name']} ({q['not_measured']})." for q in asked if q["not_measured"]]
    if not measured:
        return "\n".join([f"### {title}, question by question", "", *lines])
    rows = [
        [
            score["features"],
            score["pooling"],
            *(f"{_auc(q['scores'][n]['auc'])} ({_interval(q['scores'][n]['interval'])})" for q in measured),
        ]
        for n, score in enumerate(measured[0]["scores"])
    ]
    table = _table(["features", "tokens", *(question["name"] for question in measured)], rows)
    return "\n\n".join([f"### {title}, question by question", table, *lines])


def _rules(record: dict[str, Any]) -> str:
    rows = []
    for question in record["questions"]:
        halves = [
            f"{count['nodules']} ({count['positive']}), {count['patients']}" for count in question["counts"].values()
        ]
        rows.append([question["name"], question["rule"], *halves])
    header = ["question", "rule", *(f"{half}: nodules (label 1), patients" for half in _halves(record))]
    return "### What was asked\n\n" + _table(header, rows)


def _runs(record: dict[str, Any]) -> str:
    rows = [
        [
            run["half"],
            str(run["seed"]),
            run["part"],
            str(run["steps"]),
            f"{run['cls_loss']:.2f}",
            f"{run['log_k']:.2f}",
            f"{run['teacher_entropy']:.2f}",
            f"{run['effective_rank']:.1f}",
            ", ".join(run["alarms"]) or "none",
        ]
        for run in record["runs"]
    ]
    header = ["learned from", "seed", "part", "steps", "CLS loss", "log K", "teacher entropy", "effective rank"]
    return "### The runs\n\n" + _table([*header, "alarms"], rows)


def _time(record: dict[str, Any]) -> str:
    rows = [[part, f"{t['wall_s'] / 60:.1f}", f"{t['cpu_s'] / 60:.1f}"] for part, t in record["time"].items()]
    rows.append(
        ["all", *(f"{sum(t[kind] for t in record['time'].values()) / 60:.1f}" for kind in ("wall_s", "cpu_s"))]
    )
    return "### Time\n\n" + _table(["part", "minutes", "core-minutes"], rows)


def _halves(record: dict[str, Any]) -> list[str]:
    return list(record["questions"][0]["counts"])


def _difference(each: dict[str, Any]) -> str:
    return f"{each['gain']:+.3f} ({_signed(each['interval'])})"


def _auc(value: float) -> str:
    return f"{value:.3f}"


def _interval(bounds: list[float]) -> str:
    return f"{bounds[0]:.3f}–{bounds[1]:.3f}"


def _signed(bounds: list[float]) -> str:
    return f"{bounds[0]:+.3f} to {bounds[1]:+.3f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
