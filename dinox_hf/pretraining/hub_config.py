"""Where a run is pushed while it trains."""

import re
from dataclasses import dataclass

from ..data.expectation import expect

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """A private repository on the Hub that gets the teacher now and then; null: none.

    The push runs beside the training, in a process of its own: one that fails is told and harms nothing.
    """

    SHORT_FOR = "repo"  # no field, having no type

    repo: str | None = None  # owner/name
    every_steps: int = 10_000  # a multiple of save_every; the last step is always pushed

    def __post_init__(self) -> None:
        if self.repo is not None:
            hint = "a repository is called owner/name"
            expect(_HUB_ID.fullmatch(self.repo) is not None, "hub.repo", "owner/name", self.repo, hint)
        expect(self.every_steps >= 1, "hub.every_steps", ">= 1", self.every_steps, "it counts steps")
