"""Where runs are shown: which dashboard, and where on it."""

from __future__ import annotations

import importlib
import os
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

if TYPE_CHECKING:
    from kn_sweeps.dashboards.reading import Published

Where = Literal["wandb", "trackio"]
TITLES: dict[Where, str] = {"wandb": "W&B", "trackio": "Trackio"}
MISSING = "Trackio is not installed: pip install 'kn_sweeps[trackio]'"
TRACKIO_STORE = "TRACKIO_DIR"
"""The variable that names Trackio's folder."""
_ELSEWHERE = {f"TRACKIO_{name}" for name in ("BUCKET_ID", "DATASET_ID", "SERVER_URL", "SPACE_ID")}
"""Where Trackio would fetch a store from, or send it to."""


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


class Dashboard(Protocol):
    """What the module of a dashboard does."""

    def server(self) -> str:
        """What tells this dashboard from others of its kind."""

    def holds(self, place: Place, run_id: str) -> bool:
        """Whether a run that was published is still there, as far as that is worth asking."""

    def publish(self, run: Published, place: Place, patience_s: float) -> str:
        """Bring a run there, or up to date; gives its address.

        Raises:
            NotPublishedError: If it did not arrive as a whole.
        """


def dashboard(where: Where) -> Dashboard:
    """The module of a dashboard; W&B's takes a second to import."""
    return cast(Dashboard, importlib.import_module(f"kn_sweeps.dashboards.{where}"))


def trackio_store() -> Path:
    """The folder of Trackio's local store: TRACKIO_DIR, or Trackio's own in the user's cache."""
    named = os.environ.get(TRACKIO_STORE)
    if named:
        return Path(named).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return Path(home).expanduser().absolute() / "trackio"


def stay_here(environment: MutableMapping[str, str]) -> None:
    """Change variables so that Trackio asks nobody who its user is, and keeps its store here."""
    for name in _ELSEWHERE:
        environment.pop(name, None)
    environment.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
