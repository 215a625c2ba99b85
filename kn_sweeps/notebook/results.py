"""Finished runs as tables: what `analysis.table` shows, and the rows below it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kn_sweeps.records.folders import find_folder
from kn_sweeps.records.places import analysis


def runs(folder: str | Path = "results") -> pd.DataFrame:
    """The finished runs below a folder, or of a sweep by its name; shards read as one run.

    Returns:
        One row a run: what names it, what tells it from the others, and for every metric `NAME`,
        `NAME_low`, `NAME_high` and `NAME_n`.

    Raises:
        ValueError: If there is no finished run.
    """
    found = analysis("runs").read_runs(_folder(folder))
    return pd.DataFrame(analysis("table").in_columns([run.summary for run in found]))


def rows(folder: str | Path) -> pd.DataFrame:
    """The rows of every finished run below a folder, or of a sweep by its name.

    Returns:
        The columns of rows.parquet (docs/metrics.md) behind `run_id`, `model`, `dataset`, `method`
        (with what else tells runs on the same data apart).

    Raises:
        ValueError: If there is no finished run.
    """
    reading = analysis("runs")
    found: list[pd.DataFrame] = []
    for run in reading.read_runs(_folder(folder)):
        table = run.results.rows
        named = reading.about(run)
        for place, name in enumerate(("model", "dataset", "method")):
            table.insert(place, name, named[name])
        table.insert(0, "run_id", run.summary["run_id"])
        found.append(table)
    joined: pd.DataFrame = pd.concat(found, ignore_index=True)
    return joined


def _folder(name: str | Path) -> Path:
    if not isinstance(name, str | Path):
        raise ValueError(f"{name!r}: expected the name of a sweep, or a folder of runs")
    return find_folder(str(name))
