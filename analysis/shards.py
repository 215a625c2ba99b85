"""Joining the shards of a run: what was computed by several tasks reads as one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kn_sweeps.config import build
from kn_sweeps.metrics.base import Results, measured
from kn_sweeps.records.run_directory import RunDirectory

Summary = dict[str, Any]


def joined(summaries: Mapping[Path, Summary]) -> list[Summary]:
    """Replace every complete set of shards by one summary, scored from all their rows.

    Args:
        summaries: Those of finished runs with their `settings`, by run directory.
    """
    whole: list[Summary] = []
    sets: dict[tuple[Path, str, int], dict[int, Path]] = {}
    for path, summary in summaries.items():
        index, count = map(int, summary.get("shard", "0/1").split("/"))
        if count == 1 or "whole_run" not in summary:
            whole.append(summary)
        else:
            key = (path.parent, summary["whole_run"], count)
            sets.setdefault(key, {})[index] = path
    for (_, _, count), shards in sets.items():
        paths = [shards[index] for index in sorted(shards)]
        parts = [summaries[path] for path in paths]
        whole += [_one(parts, paths)] if len(shards) == count else parts
    return whole


def _one(summaries: Sequence[Summary], paths: Sequence[Path]) -> Summary:
    """The summary of the run that the shards make."""
    first = summaries[0]
    directories = [RunDirectory(path) for path in paths]
    config = directories[0].config()
    metrics = [build(node, None, f"metric.{name}") for name, node in config["metric"].items()]
    results = [directory.results() for directory in directories]
    histograms = [one["neurons_by_layer"] for one in summaries if "neurons_by_layer" in one]
    by_layer = {"neurons_by_layer": np.sum(histograms, 0).tolist()} if histograms else {}
    return {
        **first,
        **by_layer,
        "shard": "0/1",
        "shards": [summary["run_id"] for summary in summaries],
        "run_id": first["whole_run"],
        "settings": {**first["settings"], "shard": "0/1"},
        "cases": sum(summary["cases"] for summary in summaries),
        "failed": sum(summary.get("failed", 0) for summary in summaries),
        "metrics": measured(metrics, joined_results(results)),
    }


def joined_results(parts: Sequence[Results]) -> Results:
    """The results of all shards, edits in the order in which one run has them.

    A run deals its edits out to the shards in turn: the k-th edit of shard i of n is number
    k * n + i.
    """
    frames = []
    for index, part in enumerate(parts):
        rank = pd.factorize(part.rows["edit"])[0]
        frames.append(part.rows.assign(_order=rank * len(parts) + index))
    rows = pd.concat(frames).sort_values("_order", kind="stable").drop(columns="_order")
    scores: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for source, values in part.attributions.items():
            scores.setdefault(source, []).append(values)
    tables = {name: [part.measurements[name] for part in parts] for name in parts[0].measurements}
    return Results(
        rows.reset_index(drop=True),
        [found for part in parts for found in part.located],
        {source: np.concatenate(values) for source, values in scores.items()},
        {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()},
    )
