"""The finished runs of a sweep with what they measured; shards read as one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from kn_sweeps.config import build
from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.records.folders import listed
from kn_sweeps.records.run_directory import RunDirectory, runs_below

from .shards import joined_results
from .summaries import Found, Summary, find_runs, identity, identity_columns

GROUP = ("model", "source", "dataset")
"""What a run was done on; runs that agree in it are compared with each other."""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        summary: Its summary, with the keys that `analysis.summaries.find_runs` adds.
        directories: Where its files lie: one directory, or one for each shard.
        label: Names it among the runs of its model and data: its method, and what else differs.
    """

    summary: Summary
    directories: tuple[RunDirectory, ...]
    label: str

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """What provenance.json says; of the first shard, with the seconds of all stages of all."""
        found = [provenance_of(one) for one in self.directories]
        stages = [stage for one in found for stage in one.get("stages", {}).values()]
        seconds = sum(float(stage.get("seconds", 0.0)) for stage in stages)
        return {**(found[0] if found else {}), "seconds": seconds}

    @cached_property
    def ended(self) -> float | None:
        """When its last file was written, in seconds since 1970."""
        paths = [one.summary_path for one in self.directories]
        return max((path.stat().st_mtime for path in paths if path.is_file()), default=None)

    @property
    def data(self) -> tuple[str, str]:
        """Dataset and data source: the cases of runs that agree in it have the same ids."""
        return str(self.summary["dataset"]), str(self.summary["source"])

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
    def metrics(self) -> list[Metric]:
        """The metrics that it was scored by."""
        nodes = self.directories[0].config()["metric"]
        return [build(node, None, f"metric.{name}") for name, node in nodes.items()]

    @property
    def bootstrap(self) -> Bootstrap:
        """How its intervals were had."""
        found: Bootstrap = build(self.directories[0].config().get("bootstrap", {}), Bootstrap)
        return found

    @cached_property
    def results(self) -> Results:
        """What the run measured."""
        parts = [one.results() for one in self.directories]
        return parts[0] if len(parts) == 1 else joined_results(parts)


def finished_runs(*folders: Path) -> tuple[list[Run], Found]:
    """Every finished run below some folders, in order, shards joined, and what else lies there."""
    found = find_runs(*folders)
    directories = _directories(folders)
    runs = [
        Run(summary, _directories_of(summary, directories), label)
        for summary, label in zip(found.summaries, labels(found.summaries), strict=True)
    ]
    return runs, found


def read_runs(*sweeps: Path) -> list[Run]:
    """Every finished run of some sweeps.

    Raises:
        ValueError: If there is none.
    """
    runs, found = finished_runs(*sweeps)
    if not runs:
        reasons = "; ".join(f"{path}: {why}" for path, why in found.broken.items())
        raise ValueError(
            f"{listed(sweeps)} has no finished run" + (f" ({reasons})" if reasons else "")
        )
    return runs


def labels(summaries: Sequence[Summary]) -> list[str]:
    """Name every run by its method and by as much else as it takes among runs on the same data."""
    telling = identity_columns(summaries)
    chosen: list[str] = []
    known = [*GROUP, "method", "intent"]
    for column in [c for c in telling if c not in (*known, "cases")] + ["cases"]:
        coarse = {tuple(identity(s, c) for c in known + chosen) for s in summaries}
        fine = {tuple(identity(s, c) for c in (*known, *chosen, column)) for s in summaries}
        if len(fine) > len(coarse):
            chosen.append(column)
    return [
        ", ".join([identity(s, "method"), *(f"{_short(c)} {identity(s, c)}" for c in chosen)])
        for s in summaries
    ]


def provenance_of(directory: RunDirectory) -> dict[str, Any]:
    """What a run's provenance.json says; empty where it is none: a report can do without."""
    try:
        return directory.provenance()
    except (OSError, ValueError):
        return {}


def _directories(folders: Sequence[Path]) -> dict[tuple[str, str], RunDirectory]:
    """Run directories by sweep and run id."""
    found = {}
    for one in runs_below(*folders):
        with suppress(OSError, ValueError):  # not finished, or named where summaries are read
            summary = {"sweep": one.path.parent.name, **one.summary()}
            found[str(summary["sweep"]), str(summary.get("run_id"))] = one
    return found


def _directories_of(
    summary: Summary, directories: Mapping[tuple[str, str], RunDirectory]
) -> tuple[RunDirectory, ...]:
    """Those of a run's shards in their order, or its own."""
    names = summary.get("shards") or [summary["run_id"]]
    keys = [(str(summary["sweep"]), str(name)) for name in names]
    return tuple(directories[key] for key in keys if key in directories)


def _short(column: str) -> str:
    return column.removeprefix("method.")


def of_source(results: Results, source: str) -> Results:
    """What a run measured on one relation or paradigm."""
    rows = results.rows
    scores = results.attributions
    return replace(
        results,
        rows=rows[rows["source"] == source],
        located=[found for found in results.located if found["source"] == source],
        attributions={source: scores[source]} if source in scores else {},
        measurements={
            name: records[records["source"] == source]
            for name, records in results.measurements.items()
        },
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
            {**about(run), "source": source, "metric": name, **asdict(estimate)}
            for source, results in parts.items()
            for metric in metrics
            for name, estimate in metric(results).items()
        ]
    )


def about(run: Run) -> dict[str, str]:
    """What names a run in a table; the method with what else tells runs on the same data apart."""
    return {
        "model": run.model,
        "dataset": run.dataset,
        "method": run.label,
        "intent": str(run.summary["intent"]),
    }
