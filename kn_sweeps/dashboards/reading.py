"""What a run directory says to a dashboard: a pure reading of its files, at any time.

Neither torch nor a dashboard's client is imported: this runs beside runs and on login nodes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from kn_sweeps.records.files import is_held
from kn_sweeps.records.history import HISTORY, Step, read_history
from kn_sweeps.records.integrity import read_sealed
from kn_sweeps.records.status import STATUS

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


class _ConfigLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads YAML as OmegaConf wrote it, in C where that is there: 1e-05 is a number."""


_ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def run_directories(sweep: Path) -> list[Path]:
    """The directories of a sweep's runs, as far as they have begun."""
    return sorted(path.parent for path in sweep.glob("*/config.yaml"))


def read_config(directory: Path) -> dict[str, Any]:
    """A run's config.

    Raises:
        ValueError: If it cannot be read.
    """
    path = directory / "config.yaml"
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _ConfigLoader)
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config: expected a mapping, got {type(config).__name__}")
    return config


def read_published(directory: Path, name: str, rows: int, jobs: Collection[str] = ()) -> Published:
    """Read a run directory.

    Args:
        directory: The run's.
        name: What people call it.
        rows: How many rows are shown as examples.
        jobs: Jobs of the cluster that are running.

    Raises:
        ValueError: If a file is there and cannot be read.
    """
    state = state_of(directory, jobs)
    summary = _json(directory / "summary.json")
    metrics = summary.pop("metrics", {})
    shown = {**summary, **_flat(metrics)}
    if state != "finished":
        status = _json(directory / STATUS)
        shown |= {"state": _told(status, state), "error": status.get("error")}
    table = directory / "rows.parquet"
    config = read_config(directory)
    return Published(
        id=directory.name,
        name=name,
        group=str(config.get("sweep", directory.parent.name)),
        state=state,
        config=config,
        summary={key: value for key, value in shown.items() if value is not None},
        progress=read_history(directory),
        metrics=metrics,
        examples=_examples(table, rows) if metrics and table.is_file() else None,
    )


def state_of(directory: Path, jobs: Collection[str] = ()) -> State:
    """What a dashboard calls the state of a run.

    Args:
        directory: The run's.
        jobs: Jobs of the cluster that are running: their nodes may hold locks that are not seen
            from here.
    """
    if said_to_run(directory) in jobs or is_held(directory / ".lock"):
        return "running"
    return "finished" if (directory / "summary.json").is_file() else "failed"


def said_to_run(directory: Path) -> str | None:
    """The job that a run says it is running in; None where it does not."""
    status = _json(directory / STATUS)
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
    state = state_of(directory, jobs)
    told = _told(_json(directory / STATUS), state)
    digest = hashlib.sha256(repr([_FORMAT, name, state, told, more]).encode())
    for file in ("config.yaml", "summary.json", HISTORY):
        path = directory / file
        digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    rows = directory / "rows.parquet"
    if rows.is_file():
        about = rows.stat()
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


def _examples(table: Path, rows: int) -> pd.DataFrame:
    import pandas as pd
    import pyarrow.parquet as parquet

    # A batch, not the file: rows may be millions.
    batches = parquet.ParquetFile(table).iter_batches(max(rows, 1), columns=list(EXAMPLE_COLUMNS))
    first = next(batches, None)
    values = {} if first is None else first.to_pydict()
    return pd.DataFrame(values, columns=list(EXAMPLE_COLUMNS)).head(rows)


def _json(path: Path) -> dict[str, Any]:
    """A JSON file; empty if it is not there.

    Raises:
        DamagedError: If it is and is not what was written.
    """
    try:
        return read_sealed(path)
    except FileNotFoundError:
        return {}
