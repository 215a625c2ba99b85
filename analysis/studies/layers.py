"""Which layer to edit: headline metrics of runs that differ in `method.layer`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.metrics.forgetting import criteria
from kn_sweeps.metrics.quantities import SHARE

from ..runs import Run
from .drawing import COLOURS, MARKERS, Drawing, legend


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a dataset and method, with a panel a model."""
    found = pd.DataFrame([line for run in runs for line in _by_layer(run)])
    if found.empty:
        return
    # A model edited at its usual layer only is no sweep over layers.
    found = found[found.groupby(["dataset", "method", "model"])["layer"].transform("nunique") > 1]
    for (dataset, method), rows in found.groupby(["dataset", "method"]):
        yield Drawing(f"layers_{dataset}_{method}", rows, _figure(rows))


def _by_layer(run: Run) -> Iterator[dict[str, object]]:
    """A row a headline metric of a run that edits one layer; none of another."""
    layer = run.setting("method.layer")
    if layer is None or not layer.isdigit():
        return
    about = {"model": run.model, "dataset": run.dataset, "method": run.method}
    for name in criteria():
        if name in run.summary["metrics"]:
            yield {**about, "layer": int(layer), "metric": name, **run.summary["metrics"][name]}


def _figure(rows: pd.DataFrame) -> Figure:
    """Headline metrics against the layer, a panel a model."""
    models = sorted(rows["model"].unique())
    figure = Figure(figsize=(3.3 * len(models), 2.4), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, model in zip(panels, models, strict=True):
        of_model = rows[rows["model"] == model]
        for n, metric in enumerate(criteria()):
            line = of_model[of_model["metric"] == metric].sort_values("layer")
            if line.empty:
                continue
            style = {"color": COLOURS[n], "label": metric}
            panel.plot(line["layer"], line["value"], marker=MARKERS[n], ms=3, lw=1.2, **style)
            low, high = (line[end].astype(float) for end in ("low", "high"))
            panel.fill_between(line["layer"], low, high, color=COLOURS[n], alpha=0.15, lw=0)
        panel.set(title=model, xlabel="layer edited", ylim=(-0.03, 1.03))
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel(SHARE)
    legend(figure, panels[0])
    return figure
