"""Weight edits on grammar: reliability, generality and locality of every paradigm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.metrics.forgetting import CRITERIA, criteria
from kn_sweeps.metrics.quantities import SHARE

from ..runs import Run, by_source
from .drawing import (
    PAGE,
    Drawing,
    alone,
    beside,
    by_model,
    dots,
    legend,
    method_order,
    named_rows,
)


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: a panel a criterion, a line a paradigm."""
    fitting = [
        run
        for run in runs
        if run.dataset == "blimp"
        and run.summary["intent"] == "replace"
        and alone(run)
        and not run.results.of("rephrase").empty
    ]
    for model, some in by_model(fitting):
        if all(run.method == "none" for run in some):
            continue
        metrics = [metric() for metric in CRITERIA]
        numbers = pd.concat([by_source(run, metrics) for run in some], ignore_index=True)
        numbers = numbers[numbers["metric"].isin(criteria())].reset_index(drop=True)
        yield Drawing(f"rome_syntax_{model}", numbers, _figure(model, numbers))


def _figure(model: str, numbers: pd.DataFrame) -> Figure:
    sources = ["all", *sorted(set(numbers["source"]) - {"all"})]
    methods = method_order(numbers["method"])
    figure = Figure(figsize=(PAGE, 0.19 * len(sources) + 1.0), layout="constrained")
    panels = figure.subplots(1, len(criteria()), sharey=True)
    for panel, criterion in zip(panels, criteria(), strict=True):
        for method, offset in beside(methods, widest=0.3).items():
            rows = numbers[(numbers["metric"] == criterion) & (numbers["method"] == method)]
            rows = rows[rows["value"].notna()].drop_duplicates("source")
            at = np.array([sources.index(source) for source in rows["source"]])
            dots(panel, rows, at + offset, method=method, label=method)
        panel.set(title=criterion, xlim=(-0.03, 1.03), xlabel=SHARE)
    named_rows(panels[0], [name.replace("_", " ") for name in sources])
    panels[0].tick_params(axis="y", labelsize=6)
    legend(figure, panels[0], title=model)
    return figure
