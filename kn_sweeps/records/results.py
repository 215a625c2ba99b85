"""A run's results read back from its directory and scored: no model and no model library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.mistakes import did_you_mean
from kn_sweeps.records.integrity import read_sealed

if TYPE_CHECKING:
    from kn_sweeps.records.run_directory import RunDirectory


def results_of(directory: RunDirectory) -> Results:
    """What metrics are computed from."""
    return Results(
        directory.rows(), directory.located(), directory.attributions(), directory.measurements()
    )


def measured(metrics: Iterable[Metric], results: Results) -> dict[str, Any]:
    """Every estimate of some metrics, as a summary has them."""
    return {
        name: asdict(estimate) for metric in metrics for name, estimate in metric(results).items()
    }


def metric_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """Identifies how each metric is computed from the rows."""
    return {
        name: hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:12]
        for name, node in config["metric"].items()
    }


def shown_otherwise(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a config wants a run shown otherwise than another one, by which it was done.

    Args:
        before: That other config.
        now: The config.
    """
    if now["tracker"]["_target_"].endswith(".NoTracker"):
        return False
    return bool(before["tracker"] != now["tracker"])


def read_summary(directory: Path) -> dict[str, Any] | None:
    """The summary of a run; None where it is not finished."""
    try:
        return read_sealed(directory / "summary.json")
    except FileNotFoundError:
        return None


def objective(summary: Mapping[str, Any], names: str | tuple[str, ...]) -> float | list[float]:
    """What a sweeper is to make large or small.

    Args:
        summary: A finished run's.
        names: A metric's name, its value's negative where a `-` stands before it; or several.

    Raises:
        ValueError: If the run has no such metric or it could not be judged.
    """
    if isinstance(names, str):
        return _signed(summary, names)
    return [_signed(summary, name) for name in names]


def _signed(summary: Mapping[str, Any], given: str) -> float:
    metrics = summary["metrics"]
    name = given.strip().removeprefix("-")
    if name not in metrics:
        raise ValueError(
            f"objective={given}: run {summary['run_id']} measured no such metric"
            f"{did_you_mean(name, metrics)}; choose from {', '.join(metrics)}"
        )
    value = metrics[name]["value"]
    if value is None:
        raise ValueError(f"objective={given}: run {summary['run_id']} has nothing to judge it by")
    return -float(value) if given.strip().startswith("-") else float(value)
