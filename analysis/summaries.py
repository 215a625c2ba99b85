"""The summaries of finished runs: found, read, put in order, and what tells them apart."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kn_sweeps.config import CANNOT_CHANGE_ROWS
from kn_sweeps.metrics.catalogue import headlines
from kn_sweeps.records.files import finite
from kn_sweeps.records.run_directory import RunDirectory, runs_below

from .shards import joined

Summary = dict[str, Any]

IDENTITY = ("model", "source", "dataset", "method", "intent", "cases")
TELL_APART = ("seed", "shard", "sweep")
ABSENT = "-"


@dataclass(frozen=True)
class Found:
    """What lies below a results folder.

    Attributes:
        summaries: Finished runs, by dataset, model and method.
        broken: Why a finished run's summary, or its config, could not be read, by its path.
        unfinished: Number of run directories without a summary.
    """

    summaries: list[Summary]
    broken: dict[Path, str]
    unfinished: int


def find_runs(*folders: Path) -> Found:
    """Read every run below some folders; one that cannot be read hides no other."""
    read: dict[Path, Summary] = {}
    broken: dict[Path, str] = {}
    directories = runs_below(*folders)
    for one in directories:
        if one.done():
            try:
                read[one.path] = {"sweep": one.path.parent.name, **read_summary(one)}
            except (OSError, ValueError) as error:
                broken[one.summary_path] = str(error)
                continue
            try:
                read[one.path]["settings"] = settings_of(one)
            except (OSError, ValueError) as error:
                broken[one.config_path] = str(error)
    try:
        summaries = joined(read)
    except (OSError, ValueError) as error:
        summaries = list(read.values())
        broken[folders[0]] = f"shards could not be joined: {error}"
    return Found(in_order(summaries), broken, sum(not one.done() for one in directories))


def in_order(summaries: Sequence[Summary]) -> list[Summary]:
    """By what was edited and how, then by the values that tell runs apart: layer 2 before 10."""
    telling = [c for c in identity_columns(summaries) if c not in (*IDENTITY, "run")]
    order = (*("dataset", "model", "source", "method", "intent", "cases"), *telling, "run_id")
    return sorted(summaries, key=lambda s: [_place(identity(s, column)) for column in order])


def _place(text: str) -> tuple[bool, float, str]:
    """Where a value comes among others: numbers by size, then texts, with theirs by size too."""
    if is_number(text):
        return False, float(text), ""
    return True, 0.0, re.sub(r"\d+", lambda digits: digits[0].zfill(9), text)


def is_number(text: str) -> bool:
    """Whether a text is a finite number."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_summary(directory: RunDirectory) -> Summary:
    """Read the summary of a finished run; of its `settings` it has none yet.

    Raises:
        ValueError: If it is not what was written or lacks what a row needs.
    """
    # JSON has no NaN, but Python writes it and other readers choke on it: nothing was measured.
    summary: Summary = finite(directory.summary())
    missing = [key for key in (*IDENTITY, "run_id", "seed", "metrics") if key not in summary]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    metrics = summary["metrics"]
    if not isinstance(metrics, dict):
        raise ValueError(f"metrics must be an object, got {type(metrics).__name__}")
    for name, estimate in metrics.items():
        if not _is_estimate(estimate):
            raise ValueError(f"metric {name} must have value, low, high and n, got {estimate!r}")
    return {"settings": {}} | summary


def settings_of(directory: RunDirectory) -> dict[str, str]:
    """A config's values by dotted name, without what cannot change a row; none if it is absent.

    Raises:
        ValueError: If it is not what was written.
    """
    found: dict[str, str] = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}.{key}" if name else str(key))
        elif not name.endswith("_target_"):
            found[name] = str(node)

    if directory.config_path.is_file():
        config = directory.config()
        # What else a model's config says is a default of its methods, and stands in theirs.
        own = ("name", "start_token", "chat")
        model = {k: v for k, v in config.pop("model", {}).items() if k in own}
        walk({k: v for k, v in config.items() if k not in CANNOT_CHANGE_ROWS}, "")
        walk(model, "model")
    return found


def _is_estimate(estimate: object) -> bool:
    """Whether a value has all parts of an estimate, as numbers or null."""
    parts = ("value", "low", "high", "n")
    return isinstance(estimate, dict) and all(
        part in estimate and isinstance(estimate[part], int | float | None) for part in parts
    )


def identity(summary: Summary, column: str) -> str:
    """One identity cell of a run; `run` is short for its id, a control names what it controls."""
    if column == "method" and summary.get("of"):
        return f"{summary['method']}({summary['of']})"
    if column == "run":
        return str(summary["run_id"])[:8]
    value = summary.get(column, summary.get("settings", {}).get(column))
    return ABSENT if value is None else str(value)


def identity_columns(summaries: Sequence[Summary]) -> list[str]:
    """The columns that name a run, and as many more as it takes to tell all runs apart."""
    columns = list(IDENTITY)
    settings = dict.fromkeys(name for summary in summaries for name in summary.get("settings", {}))
    for extra in (*TELL_APART, *sorted(settings, key=_by_importance), "run"):
        coarse = {tuple(identity(s, c) for c in columns) for s in summaries}
        fine = {tuple(identity(s, c) for c in (*columns, extra)) for s in summaries}
        if len(fine) > len(coarse):
            columns.append(extra)
    return columns


def _by_importance(setting: str) -> tuple[bool, bool, str]:
    """What a method does comes first, then how the run goes, then the data."""
    return setting.startswith("dataset."), not setting.startswith("method."), setting


def metric_names(summaries: Sequence[Summary]) -> list[str]:
    """Every metric that some run has: the headline first, then as the runs list them."""
    present = dict.fromkeys(name for s in summaries for name in s["metrics"])
    first = headlines(present)
    return first + [name for name in present if name not in first]
