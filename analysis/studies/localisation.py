"""Where the neurons of every paradigm and relation are, and how alike its prompts (figure 5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kn_sweeps.metrics.bootstrap import Bootstrap, FloatArray
from kn_sweeps.metrics.localisation import (
    layer_histogram,
    mixed_r_squared,
    null_r_squared,
    r_squared,
)
from kn_sweeps.metrics.significance import holm

from ..runs import Run, about
from .drawing import (
    COLOURS,
    GREY,
    PAGE,
    Drawing,
    by_setting,
    dataset_name,
    legend,
    named_rows,
)

FEWEST = 3
"""Sources that make a comparison."""
SHUFFLES = 5
"""Permutations of scores behind the lower null, which hardly varies."""
DRAWS = 5000
"""Sets of prompts of all sources behind the upper one: enough for a p that Holm's correction of
some seventy sources leaves below 0.05."""
LEVEL = 0.05


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: neurons by layer, R1^2 of every source beside its null."""
    fitting = [
        run
        for run in runs
        if run.results.located and run.results.attributions and run.dataset in ("blimp", "pararel")
    ]
    for model, chosen in by_setting(fitting):
        if sum(len(run.results.attributions) for run in chosen) < FEWEST:
            continue
        numbers = pd.concat([_table(run) for run in chosen], ignore_index=True)
        layers = pd.concat([_layers(run) for run in chosen], ignore_index=True)
        yield Drawing(
            f"localisation_{model}",
            numbers,
            _figure(model, numbers, layers),
            more={"by_layer": layers},
        )


def _table(run: Run) -> pd.DataFrame:
    """A row a source: prompts, neurons, tau, R1^2 and its nulls."""
    results = run.results
    mixed = mixed_r_squared(results.attributions, draws=DRAWS, seed=0)
    lines = []
    for source, scores in sorted(results.attributions.items()):
        located = [found for found in results.located if found["source"] == source]
        null = null_r_squared(scores, shuffles=SHUFFLES, seed=0)
        lines.append(
            {
                **about(run),
                "source": source,
                "edits": len(located),
                "prompts": len(scores),
                "neurons": float(np.mean([len(found["neurons"]) for found in located])),
                "tau": float(np.mean([found["tau"] for found in located])),
                "layer": float(np.mean([n[0] for found in located for n in found["neurons"]])),
                "r_squared": r_squared(scores),
                "shuffled": float(np.mean(null)) if len(null) else None,
                **_beside(r_squared(scores), mixed[source]),
            }
        )
    table = pd.DataFrame(lines)
    judged = table["p"].notna()
    return table.assign(p_holm=pd.Series(holm(table["p"][judged]), index=table.index[judged]))


def _beside(value: float | None, mixed: FloatArray) -> dict[str, float | None]:
    """R1^2 of prompts of all sources: the mean, 95 % of it, and how seldom it is as high."""
    if value is None or not len(mixed):
        return {"mixed": None, "mixed_low": None, "mixed_high": None, "p": None}
    low, high = np.quantile(mixed, [0.025, 0.975])
    p = (1 + int((mixed >= value).sum())) / (1 + len(mixed))
    return {"mixed": float(mixed.mean()), "mixed_low": low, "mixed_high": high, "p": p}


def _layers(run: Run) -> pd.DataFrame:
    """A row a layer: the share of the located neurons in it, and 95 % over resampled edits."""
    located = run.results.located
    each: FloatArray = np.stack([layer_histogram([found], run.layers) for found in located]).astype(
        float
    )

    def by_layer(weights: FloatArray) -> FloatArray:
        drawn: FloatArray = weights @ each
        shares: FloatArray = drawn / drawn.sum(1, keepdims=True)
        return shares

    low, high = Bootstrap().interval(by_layer, len(each))
    counts = each.sum(0)
    return pd.DataFrame(
        {
            **about(run),
            "layer": np.arange(run.layers),
            "neurons": counts.astype(int),
            "share": counts / counts.sum(),
            "low": low,
            "high": high,
            "edits": len(each),
        }
    )


def _figure(model: str, numbers: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    datasets = list(dict.fromkeys(numbers["dataset"]))
    figure = Figure(figsize=(PAGE, max(2.6, 0.115 * len(numbers) + 0.9)), layout="constrained")
    grid = figure.add_gridspec(len(datasets), 2, width_ratios=(1, 1.25))
    colours = {name: COLOURS[n] for n, name in enumerate(datasets)}
    top: float = float(layers["high"].max()) * 1.05
    for n, dataset in enumerate(datasets):
        panel = figure.add_subplot(grid[n, 0])
        rows = layers[layers["dataset"] == dataset]
        panel.bar(rows["layer"], rows["share"], color=colours[dataset], width=0.8)
        spread = np.abs(rows[["low", "high"]].to_numpy().T - rows["share"].to_numpy())
        panel.errorbar(
            rows["layer"], rows["share"], yerr=spread, fmt="none", ecolor="black", elinewidth=0.6
        )
        edits = int(rows["edits"].iloc[0])
        panel.set(
            title=f"{dataset_name(dataset)}\n{int(rows['neurons'].sum())} neurons, {edits} edits",
            ylabel="share of located neurons",
            ylim=(0, top),
        )
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("layer")
    right = figure.add_subplot(grid[:, 1])
    ordered = numbers.sort_values(["dataset", "r_squared"], ascending=[True, False])
    at = np.arange(len(ordered))
    for dataset in datasets:
        own = (ordered["dataset"] == dataset).to_numpy()
        right.plot(
            ordered["r_squared"][own],
            at[own],
            "o",
            ms=3,
            color=colours[dataset],
            label=dataset_name(dataset),
        )
    low, high = (ordered[end].astype(float) for end in ("mixed_low", "mixed_high"))
    right.hlines(at, low, high, color=GREY, lw=1.2, label="prompts of all sources, 95 %", zorder=1)
    right.plot(
        ordered["shuffled"].astype(float), at, "|", ms=4, color=GREY, label="scores shuffled"
    )
    stars = np.where(ordered["p_holm"] < LEVEL, " *", "")
    names = [name.replace("_", " ") for name in ordered["source"]]
    named_rows(right, [name + star for name, star in zip(names, stars, strict=True)])
    right.tick_params(axis="y", labelsize=5.5)
    right.set(
        xlabel="R1² of the prompts' attributions\n"
        f"* above prompts of all sources,\nHolm-corrected p < {LEVEL}",
        xlim=(-0.03, 1.03),
    )
    legend(figure, right, title=model)
    return figure
