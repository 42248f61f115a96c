"""What every part of an evaluation works with: the subject, the nodules, frozen features from a cache, and figures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..backbones.features import Backbone, cached, pooled_features
from ..backbones.subject import EvaluationSettings, Subject
from ..cohorts.material import Material


@dataclass
class Bench:
    """One evaluation while it runs."""

    subject: Subject
    material: Material
    settings: EvaluationSettings
    out: Path  # folder of the report
    cache: Path  # folder of features/ and scores/ that need not be computed again: that of the report, or a shared one
    num_threads: int
    progress: tqdm
    figures: dict[str, str] = field(default_factory=dict)  # by name, relative to the report

    @property
    def start(self) -> Backbone | None:
        """The weights that the run began with; None where it began with a random draw, or where they are gone."""
        return self.subject.start.backbone if self.subject.start else None

    @property
    def networks(self) -> list[Backbone]:
        """The backbone, its starting weights if there are any, and its random twins."""
        return [self.subject.backbone, *([self.start] if self.start else []), *self.subject.twins]

    def features(self, network: Backbone, images: str = "nodules") -> dict[str, np.ndarray]:
        """Pooled features of a network, by pooling (n, D): of the "nodules", or of the evenly sampled "slices".

        Raises:
            ValueError: if a feature is NaN or infinite.
        """
        material = self.material
        inputs = network, material.images[images], material.spacing_mm[images]
        key = self.key(network) | {"of": images}
        features = cached(self.cache / "features", key, lambda: pooled_features(*inputs))
        for pooling, values in features.items():
            if not np.isfinite(values).all():
                rows = int((~np.isfinite(values).all(axis=1)).sum())
                raise ValueError(
                    f"Expected finite features of {self.subject.source}; found NaN or infinity in {rows} of "
                    f"{len(values)} images ({pooling}). Its training has diverged or its weights are damaged: look at "
                    f"its training curves, and name an earlier checkpoint's backbone/ folder."
                )
        return features

    def key(self, network: Backbone) -> dict[str, Any]:
        """Names a network and the images it is shown, for `features.cached`."""
        return self.material.key | {"weights": network.digest, "processor": network.processor.to_json_string()}

    def figure(self, name: str) -> Path:
        """Where a part draws a figure, which its section shows with `tables.figure`."""
        self.figures[name] = f"figures/{name}.png"
        return self.out / self.figures[name]

    def now(self, what: str) -> None:
        """Say beside the progress bar what is being done."""
        self.progress.set_postfix_str(what)
