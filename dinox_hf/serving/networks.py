"""The networks of the demo: the one that is asked for beside another, or random weights where there is none."""

from dataclasses import dataclass
from pathlib import Path

from ..evaluation.backbones.features import Backbone, random_backbone, random_twin
from .volume_features import open_backbone

QUICKSTART = Path("outputs/quickstart/hub")
RANDOM = "random weights"
CONTROL = "random weights (control)"


@dataclass(frozen=True)
class Networks:
    """What the demo compares."""

    named: list[tuple[str, Backbone]]  # the first is the subject, a second stands beside it
    warning: str = ""  # what a visitor has to know of the weights


def load_networks(backbone: str | None = None, other: str | None = None) -> Networks:
    """Open the network to look through and the one beside it.

    Args:
        backbone: a run, a published folder or an id on the Hub; None takes that of the quickstart, and random weights
            where there is none.
        other: the same for the second; None is the first with random weights.

    Raises:
        ValueError: if there is no backbone at a place that is named.
    """
    if backbone is None and not (QUICKSTART / "config.json").is_file():
        if other is not None:
            raise ValueError(f"--other stands beside a --backbone; found only --other={other}. Name both.")
        warning = (
            f"No backbone was named and {QUICKSTART} is not there: this network has random weights and has learned "
            f"nothing. Run make quickstart, or start with --backbone FOLDER_OR_HUB_ID."
        )
        return Networks([(RANDOM, random_backbone("vit_tiny", seed=0))], warning)
    source = str(QUICKSTART) if backbone is None else backbone
    subject, _ = open_backbone(source)
    second = (CONTROL, random_twin(subject, seed=0)) if other is None else (_name(other), open_backbone(other)[0])
    warning = ""
    if backbone is None:
        warning = "The quickstart's network: trained for minutes on synthetic scans, it shows the machinery only."
    return Networks([(_name(source), subject), second], warning)


def _name(source: str) -> str:
    """The last two parts of a path, an id on the Hub as it is: no folder above them is shown to visitors."""
    return "/".join(Path(source).resolve().parts[-2:]) if Path(source).exists() else source
