"""What a run directory says to a dashboard: a pure reading of its files, at any time.

Neither torch nor a dashboard's client is imported: this runs beside runs and on login nodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kn_sweeps.records.history import Step, read_history
from kn_sweeps.records.integrity import read_sealed
from kn_sweeps.records.run_directory import RunDirectory

if TYPE_CHECKING:
    import pandas as pd

State = Literal["running", "finished", "failed"]
PARTS = ("value", "low", "high", "n")
EXAMPLE_COLUMNS = (
    *("case", "kind", "group", "prefix", "suffix", "old", "new", "pre_answer", "post_answer"),
    *("pre_margin", "post_margin", "kl"),
)
_FORMAT = 1
"""Raise it when the same directory gives another `Published`: what was sent is sent again."""


@dataclass(frozen=True)
class Published:
    """One run as a dashboard shows it.

    Attributes:
        id: The run's id.
        name: What people call it.
        group: Its sweep.
        state: `failed` is everything that is neither finished nor running.
        config: Its config.
        summary: `summary.json`, with every metric as NAME, NAME_low, NAME_high and NAME_n; of a
            run that is not finished, its `state` and the `error`. What is null is left out.
        progress: How many cases were done when, in ascending order.
        metrics: Every estimate of `summary.json`; empty without one.
        examples: The first rows; None without any.
    """

    id: str
    name: str
    group: str
    state: State
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    progress: tuple[Step, ...] = ()
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: pd.DataFrame | None = None


def read_published(directory: Path, name: str, rows: int, jobs: Collection[str] = ()) -> Published:
    """Read a run directory.

    Args:
        directory: The run's.
        name: What people call it.
        rows: How many rows are shown as examples.
        jobs: Jobs of the cluster that are running.

    Raises:
        ValueError: If a file is there and cannot be read.
        FileNotFoundError: If there is no config.
    """
    own = RunDirectory(directory)
    state = state_of(directory, jobs)
    summary = _there(own.summary)
    metrics = summary.pop("metrics", {})
    shown = {**summary, **_flat(metrics)}
    if state != "finished":
        status = _status(own)
        shown |= {"state": _told(status, state), "error": status.get("error")}
    config = own.config()
    return Published(
        id=directory.name,
        name=name,
        group=str(config.get("sweep", directory.parent.name)),
        state=state,
        config=config,
        summary={key: value for key, value in shown.items() if value is not None},
        progress=read_history(directory),
        metrics=metrics,
        examples=own.first_rows(rows, EXAMPLE_COLUMNS)
        if metrics and own.rows_path.is_file()
        else None,
    )


def state_of(directory: Path, jobs: Collection[str] = ()) -> State:
    """What a dashboard calls the state of a run.

    Args:
        directory: The run's.
        jobs: Jobs of the cluster that are running: their nodes may hold locks that are not seen
            from here.
    """
    own = RunDirectory(directory)
    if said_to_run(directory) in jobs or own.busy():
        return "running"
    return "finished" if own.done() else "failed"


def said_to_run(directory: Path) -> str | None:
    """The job that a run says it is running in; None where it does not."""
    status = _status(RunDirectory(directory))
    job: str | None = status.get("where", {}).get("job")
    return job if status.get("state") == "running" else None


def fingerprint(directory: Path, name: str, jobs: Collection[str], *more: object) -> str:
    """Twelve hex digits of what `read_published` would read; it changes when that does.

    Args:
        directory: The run's.
        name: What people call it.
        jobs: Jobs of the cluster that are running.
        more: What else decides what a dashboard is sent.
    """
    own = RunDirectory(directory)
    state = state_of(directory, jobs)
    told = _told(_status(own), state)
    digest = hashlib.sha256(repr([_FORMAT, name, state, told, more]).encode())
    for path in (own.config_path, own.summary_path, own.history_path):
        digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    if own.rows_path.is_file():
        about = own.rows_path.stat()
        digest.update(repr([about.st_size, about.st_mtime_ns]).encode())
    return digest.hexdigest()[:12]


def _told(status: Mapping[str, Any], state: State) -> str:
    """The state in the run's own words; `lost` where it says that it is running and is not."""
    told = str(status.get("state", "lost"))
    return "lost" if told == "running" and state == "failed" else told


def _flat(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every part of every estimate under a name of its own."""
    return {
        name if part == "value" else f"{name}_{part}": estimate[part]
        for name, estimate in metrics.items()
        for part in PARTS
    }


def _status(directory: RunDirectory) -> dict[str, Any]:
    return _there(partial(read_sealed, directory.status_path))


def _there(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is read; empty if it is not there.

    Raises:
        DamagedError: If it is and is not what was written.
    """
    try:
        return read()
    except FileNotFoundError:
        return {}
