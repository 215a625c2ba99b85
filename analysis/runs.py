"""The finished runs of a sweep with what they measured; shards read as one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.shards import joined_results
from analysis.table import find_runs, identity
from kn_sweeps.metrics.base import Estimate, Metric, Results
from kn_sweeps.run import results_of
from kn_sweeps.store import RunDirectory


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        summary: Its summary, with `settings` (see `analysis.table.read_summary`).
        paths: Its directory, or those of its shards in their order.
    """

    summary: dict[str, Any]
    paths: tuple[Path, ...]

    @property
    def model(self) -> str:
        """The model's label."""
        return str(self.summary["model"])

    @property
    def dataset(self) -> str:
        """The dataset's module: `blimp`, `pararel`, `determiners`."""
        return str(self.summary["dataset"])

    @property
    def method(self) -> str:
        """The method; a control names what it controls: `random(kn)`."""
        return identity(self.summary, "method")

    @property
    def layers(self) -> int:
        """Layers of the model, of a run that located neurons."""
        return len(self.summary["neurons_by_layer"])

    def setting(self, name: str) -> str | None:
        """A value of the config by its dotted name, as text; None where it has none."""
        value = self.summary["settings"].get(name)
        return None if value is None else str(value)

    @cached_property
    def results(self) -> Results:
        """What the run measured."""
        parts = [results_of(RunDirectory(path)) for path in self.paths]
        return parts[0] if len(parts) == 1 else joined_results(parts)


def read_runs(sweep: Path) -> list[Run]:
    """Every finished run of a sweep, shards joined, as `analysis.table` orders them.

    Raises:
        ValueError: If there is none.
    """
    found = find_runs(sweep)
    if not found.summaries:
        reasons = "; ".join(f"{path}: {why}" for path, why in found.broken.items())
        raise ValueError(f"{sweep} has no finished run" + (f" ({reasons})" if reasons else ""))
    runs = []
    for summary in found.summaries:
        paths = [path for path in sweep.glob("*") if path.name == summary["run_id"]]
        if not (paths and (paths[0] / "rows.parquet").is_file()):
            paths = _shards(sweep, summary["run_id"])
        runs.append(Run(summary, tuple(paths)))
    return runs


def _shards(sweep: Path, whole: str) -> list[Path]:
    """The directories of a run's shards, in their order."""
    found = {}
    for path in sweep.glob("*/summary.json"):
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary.get("whole_run") == whole:
            found[int(summary["shard"].split("/")[0])] = path.parent
    return [found[index] for index in sorted(found)]


def of_source(results: Results, source: str) -> Results:
    """What a run measured on one relation or paradigm."""
    rows = results.rows
    scores = results.attributions
    return replace(
        results,
        rows=rows[rows["source"] == source],
        located=[found for found in results.located if found["source"] == source],
        attributions={source: scores[source]} if source in scores else {},
    )


def by_source(run: Run, metrics: Sequence[Metric]) -> pd.DataFrame:
    """Every estimate of some metrics, for all sources together (`all`) and each of them.

    Returns:
        Columns `model`, `dataset`, `method`, `intent`, `source`, `metric`, `value`, `low`, `high`,
        `n`.
    """
    sources = sorted(run.results.rows["source"].unique())
    parts = {"all": run.results, **{name: of_source(run.results, name) for name in sources}}
    return pd.DataFrame(
        [
            {**about(run), "source": source, **row(name, estimate)}
            for source, results in parts.items()
            for metric in metrics
            for name, estimate in metric(results).items()
        ]
    )


def about(run: Run) -> dict[str, str]:
    """What names a run in a table."""
    return {
        "model": run.model,
        "dataset": run.dataset,
        "method": run.method,
        "intent": str(run.summary["intent"]),
    }


def row(name: str, estimate: Estimate) -> dict[str, Any]:
    """An estimate as columns."""
    return {
        "metric": name,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
    }
