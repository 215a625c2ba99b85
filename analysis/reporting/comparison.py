"""The comparison of runs: what the page sorts, filters and plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kn_sweeps.metrics.catalogue import headlines, quantity

from ..runs import Run
from ..summaries import identity, identity_columns, is_number, metric_names
from ..table import number
from .overview import commit, date

ABOUT = ("run id", "sweep", "failed cases", "commit", "device", "seconds", "finished")
"""Columns beside the identity that a reader can ask for."""


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """The comparison as the page's script reads it.

    Returns:
        `columns`, each with `id`, `kind` (`text`, `number`, `metric` or `about`), whether it is
        `shown` at first and, of a metric, what it is `about`; and `runs`, each with what it is
        filtered by and its `cells` in the order of the columns. A metric's cell is [value, low,
        high, n, value as text, interval as text], or null where the run does not have it.
    """
    summaries = [run.summary for run in runs]
    identities = identity_columns(summaries)
    telling = [c for c in identities if c not in ("run", "method")]
    # The first column stays in sight when a phone scrolls the others: it says what a row is.
    named = ["method", *telling]
    metrics = metric_names(summaries)
    headline = headlines(metrics) or metrics
    texts = {column: [identity(s, column) for s in summaries] for column in named}
    # What all runs have in common is in the overview, and leaves room for what they do not.
    differ = {c for c in named if c == "method" or len(set(texts[c])) > 1}
    columns = [
        *({"id": c, "kind": _kind(texts[c]), "shown": c in differ} for c in named),
        *(
            {"id": m, "kind": "metric", "shown": m in headline, "about": _about_metric(m)}
            for m in metrics
        ),
        *(
            {"id": c, "kind": "about", "shown": c == "run id" and "run" in identities}
            for c in ABOUT
            if c not in named
        ),
    ]
    return {"columns": columns, "runs": [_row(run, columns) for run in runs]}


def _about_metric(name: str) -> str:
    about = quantity(name)
    return str(about) if about.meaning else ""


def _row(run: Run, columns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run, its cells in the order of the columns."""
    about = _about(run)
    cells: list[Any] = []
    for column in columns:
        name = column["id"]
        if column["kind"] == "metric":
            cells.append(_estimate(run.summary["metrics"].get(name)))
        else:
            cells.append(about[name] if column["kind"] == "about" else identity(run.summary, name))
    return {
        "label": run.label,
        "run_id": str(run.summary["run_id"]),
        **{key: identity(run.summary, key) for key in ("model", "source", "dataset")},
        **{key: identity(run.summary, key) for key in ("method", "intent")},
        "cells": cells,
    }


def _about(run: Run) -> dict[str, str]:
    provenance = run.provenance
    return {
        "run id": str(run.summary["run_id"]),
        "sweep": str(run.summary["sweep"]),
        "failed cases": str(run.summary.get("failed", 0)),
        "commit": commit(run),
        "device": f"{provenance.get('device', '-')}, {provenance.get('dtype', '-')}",
        "seconds": f"{provenance['seconds']:.1f}",
        "finished": "-" if run.ended is None else date(run.ended),
    }


def _estimate(estimate: dict[str, Any] | None) -> list[Any] | None:
    if estimate is None:
        return None
    value, low, high, n = (estimate[part] for part in ("value", "low", "high", "n"))
    interval = "" if low is None else f"[{number(low)}, {number(high)}]"
    return [value, low, high, n, number(value), interval]


def _kind(texts: Sequence[str]) -> str:
    """How a column sorts: by value where all it has are numbers."""
    return "number" if all(is_number(text) for text in texts if text != "-") else "text"
