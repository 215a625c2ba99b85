"""By which paths neurons act on the answer, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.metrics.paths import NAME, PATHS

from ..runs import Run, about
from .drawing import COLOURS, GREY, MARKERS, PAGE, Drawing, by_setting, dataset_name, dots, legend

TITLES = {"best": "best neurons", "all": "all neurons"}
LINES = {**dict(zip(PATHS, COLOURS, strict=False)), "whole": GREY}


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: each path's attribution by layer, a line a dataset."""
    fitting = [run for run in runs if not run.results.measurements.get(NAME, pd.DataFrame()).empty]
    for model, chosen in by_setting(fitting):
        numbers = pd.concat([_numbers(run) for run in chosen], ignore_index=True)
        yield Drawing(f"paths_{model}", numbers, _figure(model, numbers))


def _numbers(run: Run) -> pd.DataFrame:
    """A row a set of neurons, layer and path: the mean over cases of their summed attributions."""
    records = run.results.measurements[NAME]
    lines = []
    for (neurons, layer), rows in records.groupby(["neurons", "layer"], sort=False):
        for path in LINES:
            estimate = Bootstrap(resamples=500).mean(rows[path], rows["case"])
            given = {"neurons": neurons, "layer": layer, "path": path}
            lines.append({**about(run), **given, **asdict(estimate)})
    return pd.DataFrame(lines)


def _figure(model: str, numbers: pd.DataFrame) -> Figure:
    datasets = list(dict.fromkeys(numbers["dataset"]))
    figure = Figure(figsize=(PAGE, 1.9 * len(datasets) + 0.6), layout="constrained")
    panels = figure.subplots(len(datasets), len(TITLES), squeeze=False)
    for line, dataset in zip(panels, datasets, strict=True):
        own = numbers[numbers["dataset"] == dataset]
        for panel, (neurons, title) in zip(line, TITLES.items(), strict=True):
            for n, (path, colour) in enumerate(LINES.items()):
                rows = own[(own["neurons"] == neurons) & (own["path"] == path)]
                dots(
                    panel,
                    rows,
                    rows["layer"] + 0.12 * (n - 1.5),
                    label=path.replace("mlps", "MLPs"),
                    vertical=True,
                    colour=colour,
                    marker=MARKERS[n],
                )
            layers = np.unique(own["layer"])
            panel.set_xticks(layers[:: max(1, len(layers) // 6)])
            panel.axhline(0, color=GREY, lw=0.5)
            panel.set(title=title, xlabel="layer")
        line[0].set_ylabel(f"{dataset_name(dataset)}, {int(own['n'].max())} cases\nattribution")
    legend(figure, panels[0, 0], title=model)
    return figure
