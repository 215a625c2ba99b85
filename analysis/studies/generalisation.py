"""What an edit made on one paradigm or relation does to every other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.metrics.locality import unchanged

from ..runs import Run, about
from .drawing import (
    PAGE,
    Drawing,
    alone,
    by_model,
    dataset_name,
    heat,
    method_order,
)


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model and dataset: a matrix a method, edits on A down, effect on B across."""
    fitting = [
        run
        for run in runs
        if run.dataset in ("blimp", "pararel")
        and run.method != "none"
        and alone(run)
        and not run.results.of("elsewhere").empty
    ]
    for model, some in by_model(fitting):
        for dataset in sorted({run.dataset for run in some}):
            numbers = pd.concat(
                [_numbers(run) for run in some if run.dataset == dataset], ignore_index=True
            )
            figure = _figure(model, dataset, numbers)
            yield Drawing(
                f"generalisation_{dataset}_{model}", numbers, figure, table=_summary(numbers)
            )


def _numbers(run: Run) -> pd.DataFrame:
    """A row a pair (A, B): change of log P(old) in nats, and the share of answers that changed."""
    rows = run.results.of("elsewhere")
    change = rows["post_log_prob_old"] - rows["pre_log_prob_old"]
    rows = rows.assign(change=change, changed=~unchanged(rows))
    lines = []
    for (source, onto), some in rows.groupby(["source", "group"]):
        moved = Bootstrap(resamples=500).mean(some["change"], some["edit"])
        lines.append(
            {
                **about(run),
                "edited": source,
                "measured": onto,
                **asdict(moved),
                "changed": float(some["changed"].mean()),
            }
        )
    return pd.DataFrame(lines)


def _summary(numbers: pd.DataFrame) -> pd.DataFrame:
    """On the edited source itself, and on the others."""
    where = np.where(numbers["edited"] == numbers["measured"], "same", "other")
    keys = ["model", "dataset", "method", "intent", "where"]
    means = numbers.assign(where=where).groupby(keys)
    return means.agg({"value": "mean", "changed": "mean", "n": "sum"}).reset_index()


def _figure(model: str, dataset: str, numbers: pd.DataFrame) -> Figure:
    """A matrix a method; a method and its control have one scale."""
    names = sorted(set(numbers["edited"]) | set(numbers["measured"]))
    shown = [name.replace("_", " ") for name in names]
    methods = method_order(numbers["method"])
    # A name takes a tenth of an inch; the names of the rows and the scales what is left.
    across = 0.1 * len(names)
    columns = min(2, len(methods)) if 2 * across + 3 <= PAGE else 1
    width = max(PAGE, across + 3)
    lines = -(-len(methods) // columns)
    figure = Figure(figsize=(width, lines * (0.16 * len(names) + 0.5) + 1.4), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for panel, method in zip(panels, methods, strict=False):
        rows = numbers[numbers["method"] == method]
        same_intent = numbers[numbers["intent"] == rows["intent"].iloc[0]]
        limit = float(same_intent["value"].abs().max()) or 1e-12
        matrix = rows.pivot_table(index="edited", columns="measured", values="value")
        matrix = matrix.reindex(index=names, columns=names).set_axis(shown, axis="index")
        image = heat(panel, matrix, diverging=True, limit=limit)
        panel.set_title(f"{method} ({rows['intent'].iloc[0]})")
        figure.colorbar(image, ax=panel, label="change of log P(old), nats", pad=0.01)
    for panel in panels[len(methods) :]:
        panel.set_visible(False)
    for panel in panels:
        panel.set_xticks(range(len(names)), shown, rotation=60, ha="right")
        panel.tick_params(labelsize=5.5)
    figure.supxlabel("measured on", fontsize=7.5)
    figure.supylabel("edited on", fontsize=7.5)
    figure.suptitle(f"{model}, {dataset_name(dataset)}", fontsize=8)
    return figure
