"""What an edit made on one paradigm or relation does to every other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.runs import Run, about
from analysis.studies.drawing import PAGE, Drawing, by_model, dataset_name, heat
from kn_sweeps.metrics.base import cluster_bootstrap
from kn_sweeps.metrics.locality import unchanged


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model and dataset: a matrix a method, edits on A down, effect on B across."""
    fitting = [
        run
        for run in runs
        if run.dataset in ("blimp", "pararel")
        and run.method != "none"
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
        moved = cluster_bootstrap(some["change"], some["edit"], resamples=500)
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
    names = sorted(set(numbers["edited"]) | set(numbers["measured"]))
    methods = list(dict.fromkeys(numbers["method"]))
    height = 0.17 * len(names) + 1.9
    figure = Figure(figsize=(PAGE, height), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for panel, method in zip(panels, methods, strict=True):
        rows = numbers[numbers["method"] == method]
        matrix = rows.pivot_table(index="edited", columns="measured", values="value")
        matrix = matrix.reindex(index=names, columns=names)
        matrix.index = pd.Index([name.replace("_", " ") for name in names])
        image = heat(panel, matrix, diverging=True)
        panel.set_xticks(range(len(names)), matrix.index, rotation=60, ha="right")
        panel.tick_params(labelsize=5.5)
        panel.set(title=f"{method} ({rows['intent'].iloc[0]})", xlabel="measured on")
        figure.colorbar(image, ax=panel, label="change of log P(old), nats", pad=0.01)  # type: ignore[arg-type]
    panels[0].set_ylabel("edited on")
    figure.suptitle(f"{model}, {dataset_name(dataset)}", fontsize=8)
    return figure
