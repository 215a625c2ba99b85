"""Faithfulness of attributions, and what it costs: curves by k, and a point an attribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from kn_sweeps.metrics.catalogue import quantity
from kn_sweeps.metrics.faithfulness import NAME, Faithfulness, heights, shares

from ..runs import Run, about
from .drawing import COLOURS, GREY, MARKERS, PAGE, Drawing, by_setting, dataset_name, dots, legend

TITLES = {
    "suppressed": "k best neurons at 0",
    "kept": "all but the k best at 0",
}
LABELS = {
    "suppressed": "share of P(old) left",
    "kept": "share of P(old) there",
}


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: both curves and faithfulness against cost, a line a dataset."""
    fitting = [run for run in runs if not run.results.measurements.get(NAME, pd.DataFrame()).empty]
    for model, chosen in by_setting(fitting):
        numbers = pd.concat([_numbers(run) for run in chosen], ignore_index=True)
        curves = pd.concat([_curves(run) for run in chosen], ignore_index=True)
        yield Drawing(
            f"locating_{model}", numbers, _figure(model, numbers, curves), more={"curves": curves}
        )


def _numbers(run: Run) -> pd.DataFrame:
    """A row an attribution and number of the metric; `passes` and `seconds` a case."""
    records = run.results.measurements[NAME]
    cost = records.groupby("attribution")[["forward", "backward", "seconds"]].mean()
    lines = []
    for name, estimate in Faithfulness()(run.results).items():
        kind = next(kind for kind in cost.index if name.endswith(f"_{kind}"))
        lines.append(
            {
                **about(run),
                "attribution": kind,
                "number": name.removeprefix(f"{NAME}_").removesuffix(f"_{kind}"),
                **asdict(estimate),
                "passes": cost.loc[kind, "forward"] + cost.loc[kind, "backward"],
                "seconds": cost.loc[kind, "seconds"],
                "unit": quantity(name).unit,
            }
        )
    return pd.DataFrame(lines)


def _curves(run: Run) -> pd.DataFrame:
    """A row an attribution, curve and k: the share of the answer's probability."""
    tables = []
    for kind, records in run.results.measurements[NAME].groupby("attribution", sort=False):
        probabilities = heights(records)
        everyone = np.ones((1, records["case"].nunique()))
        for curve in TITLES:
            ks, found = shares(probabilities, curve, everyone)
            given = {"attribution": kind, "curve": curve, "k": ks.astype(int), "share": found[0]}
            tables.append(pd.DataFrame({**about(run), **given, "cases": everyone.size}))
    return pd.concat(tables, ignore_index=True)


def _figure(model: str, numbers: pd.DataFrame, curves: pd.DataFrame) -> Figure:
    datasets = list(dict.fromkeys(numbers["dataset"]))
    kinds = list(dict.fromkeys(numbers["attribution"]))
    figure = Figure(figsize=(PAGE, 1.9 * len(datasets) + 0.6), layout="constrained")
    panels = figure.subplots(len(datasets), 3, squeeze=False)
    for line, dataset in zip(panels, datasets, strict=True):
        own = curves[curves["dataset"] == dataset]
        for panel, (curve, title) in zip(line, TITLES.items(), strict=False):
            for n, kind in enumerate(kinds):
                rows = own[(own["curve"] == curve) & (own["attribution"] == kind)]
                style = {"color": _colour(kind, kinds), "marker": MARKERS[n % len(MARKERS)]}
                panel.plot(rows["k"], rows["share"], ms=2.5, lw=0.8, **style)
            panel.set(xscale="log", title=title, xlabel="k", ylabel=LABELS[curve])
        line[0].set_ylabel(
            f"{dataset_name(dataset)}, {int(own['cases'].iloc[0])} cases\n{LABELS['suppressed']}"
        )
        _against_cost(line[2], numbers[numbers["dataset"] == dataset], kinds)
    legend(figure, panels[0, 2], title=model)
    return figure


def _against_cost(panel: Axes, numbers: pd.DataFrame, kinds: Sequence[str]) -> None:
    for n, kind in enumerate(kinds):
        rows = numbers[(numbers["attribution"] == kind) & (numbers["number"] == "suppressed")]
        dots(
            panel,
            rows,
            rows["passes"],
            label=kind.replace("_", " "),
            vertical=True,
            colour=_colour(kind, kinds),
            marker=MARKERS[n % len(MARKERS)],
        )
    panel.set(xscale="log", title="faithfulness and cost")
    panel.set(xlabel="passes of the prompt", ylabel="share of P(old) taken")
    # Costs lie within two powers of ten, where plain numbers say more.
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())


def _colour(kind: str, kinds: Sequence[str]) -> str:
    """Chance is grey."""
    coloured = [one for one in kinds if one != "random"]
    return GREY if kind == "random" else COLOURS[coloured.index(kind) % len(COLOURS)]
