"""Where runs are shown: which dashboard, and where on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Where = Literal["wandb", "trackio"]
TITLES: dict[Where, str] = {"wandb": "W&B", "trackio": "Trackio"}
MISSING = "Trackio is not installed: pip install 'kn_sweeps[trackio]'"
TRACKIO_STORE = "TRACKIO_DIR"
"""The variable that names Trackio's folder."""


class NotPublishedError(Exception):
    """A run did not arrive; the text says why, in the server's words where it gave any."""


@dataclass(frozen=True)
class Place:
    """Where on a dashboard.

    Attributes:
        project: The project.
        entity: The team or user; None for the default of whoever is logged in.
        tags: Tags of the run.
        sample_rows: Rows of the table of examples.
        where: Which dashboard; its module here publishes.
    """

    project: str
    entity: str | None = None
    tags: tuple[str, ...] = ()
    sample_rows: int = 50
    where: Where = "wandb"

    @property
    def key(self) -> str:
        """What tells this place from others on one server."""
        return f"{self.entity or ''}/{self.project}"


def trackio_store() -> Path:
    """The folder of Trackio's local store: TRACKIO_DIR, or Trackio's own in the user's cache."""
    named = os.environ.get(TRACKIO_STORE)
    if named:
        return Path(named).expanduser().absolute()
    cache = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(cache).expanduser().absolute() / "trackio"
