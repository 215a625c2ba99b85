"""Joining the shards of a run: what was computed by several tasks reads as one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from kn_sweeps.config import build
from kn_sweeps.metrics.base import Results
from kn_sweeps.run import measured, results_of
from kn_sweeps.store import RunDirectory

Summary = dict[str, Any]


def joined(summaries: Mapping[Path, Summary]) -> list[Summary]:
    """Replace every complete set of shards by one summary, scored from all their rows.

    Args:
        summaries: Those of finished runs with their `settings`, by run directory.
    """
    whole: list[Summary] = []
    sets: dict[str, dict[str, Path]] = {}
    for path, summary in summaries.items():
        shard = summary.get("shard", "0/1")
        if shard == "0/1":
            whole.append(summary)
            continue
        rest = {k: v for k, v in summary["settings"].items() if k != "shard"}
        count = shard.split("/")[1]
        key = json.dumps([summary["model"], summary["sweep"], count, rest], sort_keys=True)
        sets.setdefault(key, {})[shard] = path
    for shards in sets.values():
        count = int(next(iter(shards)).split("/")[1])
        if len(shards) < count:
            whole += [summaries[path] for path in shards.values()]
        else:
            paths = [shards[f"{n}/{count}"] for n in range(count)]
            whole.append(_one([summaries[path] for path in paths], paths))
    return whole


def _one(summaries: Sequence[Summary], paths: Sequence[Path]) -> Summary:
    """The summary of the run that the shards make."""
    first = summaries[0]
    config = OmegaConf.to_container(OmegaConf.load(paths[0] / "config.yaml"))
    assert isinstance(config, dict)
    metrics = [build(node, None, f"metric.{name}") for name, node in config["metric"].items()]
    results = [results_of(RunDirectory(path)) for path in paths]
    return {
        **first,
        "shard": "0/1",
        "run_id": "+".join(summary["run_id"] for summary in summaries),
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
    return Results(
        rows.reset_index(drop=True),
        [found for part in parts for found in part.located],
        {source: np.concatenate(values) for source, values in scores.items()},
    )
