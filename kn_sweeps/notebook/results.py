"""Finished runs as tables: what `analysis.table` shows, and the rows below it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from kn_sweeps.records.folders import find_folder


def runs(folder: str | Path = "results") -> pd.DataFrame:
    """The finished runs below a folder, or of a sweep by its name; shards read as one run.

    Returns:
        One row a run: what names it, what tells it from the others, and for every metric `NAME`,
        `NAME_low`, `NAME_high` and `NAME_n`.

    Raises:
        ValueError: If there is no finished run.
    """
    from analysis.runs import read_runs
    from analysis.table import in_columns

    return pd.DataFrame(in_columns([run.summary for run in read_runs(_folder(folder))]))


def rows(folder: str | Path) -> pd.DataFrame:
    """The rows of every finished run below a folder, or of a sweep by its name.

    Returns:
        The columns of rows.parquet (docs/metrics.md) behind `run_id`, `model`, `dataset`, `method`
        (with what else tells runs on the same data apart).

    Raises:
        ValueError: If there is no finished run.
    """
    from analysis.runs import about, read_runs

    found = []
    for run in read_runs(_folder(folder)):
        table = run.results.rows
        named = about(run)
        for place, name in enumerate(("model", "dataset", "method")):
            table.insert(place, name, named[name])
        table.insert(0, "run_id", run.summary["run_id"])
        found.append(table)
    return pd.concat(found, ignore_index=True)


def _folder(name: str | Path) -> Path:
    if not isinstance(name, str | Path):
        raise ValueError(f"{name!r}: expected the name of a sweep, or a folder of runs")
    return find_folder(str(name))
