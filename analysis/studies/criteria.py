"""The paper's two criteria: bijective symmetry and synonymy, gated and ungated, with examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.metrics.quantities import SHARE

from ..runs import Run, about
from .drawing import (
    COLUMN,
    Drawing,
    alone,
    beside,
    by_model,
    dots,
    legend,
    method_order,
    named_rows,
)

SYMMETRY = {
    "reliability": "reliability",
    "symmetry": "symmetry",
    "symmetry_gated": "symmetry, gated",
    "symmetry_stale": "stale: former subject",
    "symmetry_residue": "residue: old, reversed",
}
SYNONYMY = {
    "reliability": "reliability",
    "generality": "generality",
    "synonymy": "synonymy",
    "synonymy_gated": "synonymy, gated",
}
EXAMPLES = 12
"""Cases whose completions are listed, a method."""


def symmetry(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model, of runs that asked facts backwards."""
    yield from _study(runs, "symmetry", SYMMETRY, "reversal")


def synonymy(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model, of runs that asked for the answer's synonym."""
    yield from _study(runs, "synonymy", SYNONYMY, "synonym")


def _study(
    runs: Sequence[Run], name: str, metrics: Mapping[str, str], kind: str
) -> Iterator[Drawing]:
    fitting = [run for run in runs if name in run.summary["metrics"] and alone(run)]
    for model, some in by_model(fitting):
        if not any(_replaces(run) for run in some):
            continue
        numbers = pd.DataFrame(
            [
                {**about(run), "metric": metric, **run.summary["metrics"][metric]}
                for run in some
                for metric in metrics
                if metric in run.summary["metrics"]
            ]
        )
        examples = pd.concat([_examples(run, kind) for run in some], ignore_index=True)
        yield Drawing(
            f"{name}_{model}",
            numbers,
            _figure(model, numbers, metrics),
            more={"examples": examples},
        )


def _replaces(run: Run) -> bool:
    return run.method != "none" and run.summary["intent"] == "replace"


def _examples(run: Run, kind: str) -> pd.DataFrame:
    """What the model said before and after, on the edit's own prompt and on the criterion's."""
    rows = run.results.rows
    judged = rows[(rows["kind"] == kind) & (rows["after"] == "edit")]
    cases = list(dict.fromkeys(judged["case"]))[:EXAMPLES]
    shown = rows[
        rows["case"].isin(cases) & rows["kind"].isin(["edit", kind]) & (rows["after"] == "edit")
    ]
    return pd.DataFrame(
        {
            **about(run),
            "case": shown["case"],
            "probe": np.where(shown["group"] == "", shown["kind"], shown["group"]),
            "prompt": shown["prefix"] + "___" + shown["suffix"],
            "old": shown["old"],
            "new": shown["new"],
            "before": shown["pre_answer"],
            "after": shown["post_answer"],
            "p_old_before": np.exp(shown["pre_log_prob_old"]),
            "p_old_after": np.exp(shown["post_log_prob_old"]),
            "p_new_before": np.exp(shown["pre_log_prob_new"]),
            "p_new_after": np.exp(shown["post_log_prob_new"]),
        }
    )


def _figure(model: str, numbers: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """A line a number; methods of both intents, each named with its own."""
    numbers = numbers.assign(label=numbers["method"] + " (" + numbers["intent"] + ")")
    methods = method_order(numbers["method"])
    # Every method has a line of text in every row.
    row = max(0.34, 0.11 * len(methods))
    height = row * len(metrics) + 0.18 * -(-len(methods) // 2) + 0.8
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    axes = figure.subplots()
    keys = list(metrics)
    for method, offset in beside(methods).items():
        rows = numbers[(numbers["method"] == method) & numbers["value"].notna()]
        rows = rows.drop_duplicates("metric")
        at = np.array([keys.index(metric) for metric in rows["metric"]], float)
        at += offset
        dots(axes, rows, at, method=method, label=rows["label"].iloc[0] if len(rows) else None)
        for place, n in zip(at, rows["n"], strict=True):
            axes.text(1.06, place, f"n={n}", fontsize=5, va="center")
    named_rows(axes, list(metrics.values()))
    axes.set(xlim=(-0.03, 1.03), xlabel=SHARE)
    legend(figure, axes, 2, title=model)
    return figure
