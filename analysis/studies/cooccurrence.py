"""Whether what is located follows how often two words occur together (figure 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.metrics.cooccurrence import NAME, CoOccurrence, pairs

from ..runs import Run, about
from .drawing import COLOURS, PAGE, Drawing, alone, by_model, legend, method_order

AXES = {
    "attribution": "attribution of the edited neurons",
    "loss": "nats lost by the edit",
}


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: a row a method, attribution and loss against the log count."""
    fitting = [
        run
        for run in runs
        if alone(run) and not run.results.measurements.get(NAME, pd.DataFrame()).empty
    ]
    for model, some in by_model(fitting):
        numbers = pd.concat(
            [pairs(run.results).assign(**about(run)) for run in some], ignore_index=True
        )
        correlations = pd.DataFrame(
            [
                {**about(run), "metric": name, **asdict(estimate)}
                for run in some
                for name, estimate in CoOccurrence()(run.results).items()
            ]
        )
        yield Drawing(
            f"cooccurrence_{model}",
            numbers,
            _figure(model, numbers, correlations),
            table=correlations,
            more={"correlations": correlations},
        )


def _figure(model: str, numbers: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    methods = method_order(numbers["method"])
    figure = Figure(figsize=(PAGE, 2.0 * len(methods) + 0.4), layout="constrained")
    panels = figure.subplots(len(methods), 2, squeeze=False, sharex=True)
    for line, method in zip(panels, methods, strict=True):
        rows = numbers[numbers["method"] == method]
        for panel, (what, label) in zip(line, AXES.items(), strict=True):
            for n, (source, some) in enumerate(rows.groupby("source")):
                style = {"color": COLOURS[n % len(COLOURS)], "marker": "os^Dv"[n % 5]}
                panel.scatter(
                    np.log1p(some["count"]), some[what], s=9, alpha=0.7, label=source, lw=0, **style
                )
            panel.set(ylabel=label, title=f"{method}\n{_told(correlations, method, what)}")
    for panel in panels[-1]:
        panel.set_xlabel("log(1 + co-occurrences)")
    legend(figure, panels[0][0], title=model)
    return figure


def _told(correlations: pd.DataFrame, method: str, what: str) -> str:
    """The correlation in one line."""
    of_method = correlations[correlations["method"] == method].set_index("metric")
    if f"cooccurrence_{what}" not in of_method.index:
        return ""
    found, p = (of_method.loc[f"cooccurrence_{what}{end}"] for end in ("", "_p"))
    if pd.isna(found["value"]):
        return f"no correlation to be had, n = {found['n']}"
    return (
        f"rho = {found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}], "
        f"p = {p['value']:.3f}, n = {found['n']}"
    )
