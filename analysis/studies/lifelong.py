"""How many edits, one on top of the other, each method bears."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from kn_sweeps.metrics.forgetting import criteria
from kn_sweeps.metrics.quantities import SHARE

from ..runs import Run, about
from .drawing import (
    PAGE,
    Drawing,
    beside,
    by_model,
    dataset_name,
    legend,
    method_order,
    method_style,
)

HELD = "held"
LOSS = "loss_change"
_AT_CHECKPOINT = re.compile(r"(.+)_after_(\d+)")
_LINES = ("-", "--", ":")
"""Of the first, second and third method that has a colour."""


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model and dataset, of sequences with checkpoints: a panel a number."""
    fitting = [run for run in runs if any(_at_checkpoints(run))]
    for model, some in by_model(fitting):
        for dataset in sorted({run.dataset for run in some}):
            lines = [
                line for run in some if run.dataset == dataset for line in _at_checkpoints(run)
            ]
            numbers = pd.DataFrame(lines)
            figure = _figure(f"{model}, {dataset_name(dataset)}", numbers)
            yield Drawing(f"lifelong_{dataset}_{model}", numbers, figure)


def _panels() -> list[str]:
    reliability, *others = criteria()
    return [reliability, HELD, *others, LOSS]


def _at_checkpoints(run: Run) -> Iterator[dict[str, object]]:
    """A row a number and checkpoint; none of a run that has no checkpoints."""
    for name, estimate in run.summary["metrics"].items():
        found = _AT_CHECKPOINT.fullmatch(name)
        if found and found[1] in _panels():
            yield {**about(run), "metric": found[1], "edits": int(found[2]), **estimate}


def _figure(title: str, numbers: pd.DataFrame) -> Figure:
    methods = method_order(numbers["method"])
    checkpoints = sorted(numbers["edits"].unique())
    figure = Figure(figsize=(PAGE, 2.3), layout="constrained")
    shown = [metric for metric in _panels() if (numbers["metric"] == metric).any()]
    panels = figure.subplots(1, len(shown), sharex=True)
    for panel, metric in zip(panels, shown, strict=True):
        taken: Counter[str] = Counter()
        for method, offset in beside(methods, widest=0.015).items():
            style = method_style(method)
            line = numbers[(numbers["metric"] == metric) & (numbers["method"] == method)]
            line = line[line["value"].notna()].sort_values("edits")
            value = line["value"].astype(float)
            low, high = (line[end].astype(float).fillna(value) for end in ("low", "high"))
            panel.errorbar(
                # The axis is logarithmic: what is added elsewhere is a factor here.
                line["edits"] * 10**offset,
                value,
                yerr=[value - low, high - value],
                label=method,
                linestyle=_LINES[taken[style["color"]] % len(_LINES)],
                lw=1,
                ms=2.5,
                elinewidth=0.5,
                **style,
            )
            taken[style["color"]] += 1
        panel.set(title=metric, xlabel="edits made", xscale="log")
        if metric == LOSS:
            panel.set(title="loss, nats a token")
            panel.axhline(0, color="black", lw=0.6)
        else:
            panel.set(ylim=(-0.03, 1.03))
            panel.label_outer()
        panel.xaxis.set_major_locator(FixedLocator(checkpoints))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xticks(checkpoints, [str(number) for number in checkpoints])
    panels[0].set_ylabel(SHARE)
    legend(figure, panels[0], columns=len(methods), title=title)
    return figure
