"""Where runs are shown besides their directories: Weights & Biases, Trackio, or nowhere.

The run directory is the source of truth, and all that a run writes. `dashboards` brings it to
W&B, whenever that is asked for: `kn-sweeps sync SWEEP`, or `mode=online`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from kn_sweeps.dashboards.following import LINGER_S, follow
from kn_sweeps.dashboards.place import TITLES


@runtime_checkable
class Tracker(Protocol):
    """Where a run is shown. A frozen dataclass whose fields are its options."""

    def follow(self, run: Path) -> None:
        """Show a run from now on, where that is asked for; returns at once.

        Args:
            run: The run's directory.
        """


@dataclass(frozen=True)
class NoTracker:
    """Show a run nowhere, unless `sync` is asked to."""

    def follow(self, run: Path) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Trackio:
    """Trackio's store on this machine, which `kn-sweeps dashboard` shows: no account, no network.

    Attributes:
        mode: `online` has a process beside this one publish runs while they are computed;
            `offline` leaves it to `dashboard` and `sync`; `disabled` keeps them from it.
        project: Trackio's project.
        tags: Tags of the run.
        sample_rows: How many rows go into the table of examples.
        linger_s: How long a process that has computed everything waits for what is being sent.
    """

    mode: Literal["offline", "online", "disabled"] = "online"
    project: str = "kn_sweeps"
    tags: tuple[str, ...] = ()
    sample_rows: int = 50
    linger_s: float = LINGER_S

    def follow(self, run: Path) -> None:
        """Have the run published while it is computed, if that is the mode."""
        if self.mode == "online":
            follow(run, TITLES["trackio"], self.linger_s)


@dataclass(frozen=True)
class WandB:
    """Weights & Biases.

    Attributes:
        mode: `offline` leaves it to `sync`; `online` has a process beside this one publish runs
            while they are computed; `disabled` keeps `sync` from publishing them too.
        project: The W&B project.
        entity: The W&B team or user; null for the default.
        tags: Tags of the run.
        sample_rows: How many rows go into the table of examples.
        linger_s: How long a process that has computed everything waits for what is being sent.
    """

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "kn_sweeps"
    entity: str | None = None
    tags: tuple[str, ...] = ()
    sample_rows: int = 50
    linger_s: float = LINGER_S

    def follow(self, run: Path) -> None:
        """Have the run published while it is computed, if that is the mode."""
        if self.mode == "online":
            follow(run, TITLES["wandb"], self.linger_s)
