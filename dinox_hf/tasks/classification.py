"""A classification head on a Dinov3CT backbone: one linear layer on pooled tokens, of one slice or of several.

adaptation.py says how it is trained, adapter_files.py how it is saved.
"""

from dataclasses import dataclass
from typing import Literal

from ..model.checkpoint_keys import load_weights
from ..model.configuration_dinov3_ct import Dinov3CTConfig
from ..model.modeling_dinov3_ct import Dinov3CTForImageClassification, Dinov3CTModel


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What the head sees of a lesion."""

    pooling: Literal["cls", "mean", "max", "cls+mean"] = "cls+mean"  # of the tokens of a slice
    kind: Literal["linear", "attention_3d"] = "linear"  # one slice, or several pooled by attention
    num_slices: int = 5  # of attention_3d, the lesion's middle slice among them
    slice_step_mm: float = 2.5  # from one of them to the next

    def __post_init__(self) -> None:
        if self.num_slices < 2 or self.slice_step_mm <= 0:
            raise ValueError(
                f"head.num_slices must be >= 2 and head.slice_step_mm > 0; found {self.num_slices} and "
                f"{self.slice_step_mm}. For a single slice take head.kind=linear."
            )

    @property
    def slices_seen(self) -> int:
        """Slices of one lesion in an example."""
        return self.num_slices if self.kind == "attention_3d" else 1


def classifier_config(backbone: Dinov3CTConfig, head: HeadConfig, class_names: tuple[str, ...]) -> Dinov3CTConfig:
    """The backbone's configuration with a head; what pretraining varied at random stays still for so few labels."""
    fields = {name: getattr(backbone, name) for name in Dinov3CTConfig.__annotations__ if not name.startswith("_")}
    still = {"drop_path_rate": 0.0, "layer_drop_path_rates": None}
    still |= {f"pos_embed_{name}": None for name in ("shift", "jitter", "rescale")}
    id2label = dict(enumerate(class_names))
    return Dinov3CTConfig(
        **(fields | still | {"pooling": head.pooling, "num_slices": head.slices_seen}),
        id2label=id2label,
        label2id={name: index for index, name in id2label.items()},
    )


def build_classifier(
    backbone: Dinov3CTModel, head: HeadConfig, class_names: tuple[str, ...]
) -> Dinov3CTForImageClassification:
    """Put a new head on a copy of a backbone; every weight of the backbone arrives, or none.

    Args:
        backbone: pretrained, in any number type.
        head: what it sees.
        class_names: of the classes, class 0 first.
    """
    classifier = Dinov3CTForImageClassification(classifier_config(backbone.config, head, class_names))
    load_weights(classifier.model, backbone.state_dict())
    return classifier
