"""The collapse test in an evaluation: of nodules, and of slices where there are whole ones, beside its controls."""

from typing import Any

import numpy as np

from ..pages.tables import table
from ..probes.collapse import collapse_scores
from ..probes.probe_suite import BACKBONE, RANDOM, START
from .bench import Bench
from .part import Part, Report


def _measure(bench: Bench, report: Report) -> Report:
    """CLS features of each kind of image, beside those of the starting weights and the random twins' mean."""
    return {"collapse": {images: _scores(bench, images) for images in bench.material.images}}


def _scores(bench: Bench, images: str) -> dict[str, Any]:
    patients = bench.material.patients[images]
    twins = [collapse_scores(bench.features(twin, images)["cls"], patients) for twin in bench.subject.twins]
    record = {BACKBONE: collapse_scores(bench.features(bench.subject.backbone, images)["cls"], patients)}
    if bench.start is not None:
        record[START] = collapse_scores(bench.features(bench.start, images)["cls"], patients)
    record[RANDOM] = {
        key: None if value is None else type(value)(np.mean([twin[key] for twin in twins]))
        for key, value in twins[0].items()
    }
    return record


def _section(report: Report) -> str:
    collapse = report["collapse"]
    rows = []
    for images, networks in collapse.items():
        for network, scores in networks.items():
            ratio = scores["between_within"]
            rows.append(
                [
                    f"{images} ({scores['num_images']} of {scores['num_patients']} patients)",
                    network,
                    f"{scores['std_mean']:.3g}",
                    f"{scores['std_min']:.3g}",
                    f"{scores['num_dead']} of {scores['width']}",
                    f"{scores['effective_rank']:.1f}",
                    f"{scores['effective_rank_centred']:.1f}",
                    "one patient" if ratio is None else f"{ratio:.3f}",
                ]
            )
    header = ["CLS features of", "network", "std, mean", "std, least", "dead dimensions"]
    header += ["effective rank", "… centred", "between / within patients"]
    slices = "" if "slices" in collapse else "\n\nSlices: not measured, the data hold no whole slices."
    return (
        "## Do features collapse?\n\n"
        + table(header, rows)
        + slices
        + "\n\nStandard deviations are per dimension, over images. Effective rank is RankMe (arXiv:2210.02885), of "
        "the features as they are and after subtracting their mean. The last column is the mean distance between "
        "images of different patients over that within a patient."
    )


COLLAPSE = Part("collapse", _measure, _section)
