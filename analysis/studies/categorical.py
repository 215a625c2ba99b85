"""How far an edit of neurons moves probabilities, and how seldom it flips an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.runs import Run, of_source
from analysis.runs import about as named
from analysis.studies.drawing import (
    PAGE,
    Drawing,
    by_model,
    dataset_name,
    dots,
    legend,
    method_order,
    named_rows,
)
from kn_sweeps.metrics.answers import answered
from kn_sweeps.metrics.base import Estimate, Results, cluster_bootstrap

MEASURES = {
    "change": "relative change of P(old)",
    "flipped": "share of right answers lost",
}
NEURONS = ("kn", "random(kn)")


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: both measures side by side, with the random control."""
    fitting = [
        run
        for run in runs
        if run.method in NEURONS
        and run.dataset in ("blimp", "pararel")
        and run.summary["regime"] == "single"
    ]
    for model, some in by_model(fitting):
        if {run.method for run in some} < set(NEURONS):
            continue
        numbers = pd.DataFrame([line for run in some for line in _lines(run)])
        table = numbers[numbers["source"] == "all"]
        yield Drawing(f"categorical_{model}", numbers, _figure(model, numbers), table=table)


def moved(results: Results) -> dict[str, Estimate]:
    """`change`, (post - pre) / pre of P(old), and `flipped`, of the answers that were right."""
    rows = results.of("edit")
    change = np.expm1((rows["post_log_prob_old"] - rows["pre_log_prob_old"]).to_numpy(float))
    was, still = (answered(rows, when, "old", "exact") for when in ("pre", "post"))
    flipped = np.where(was == 1, 1 - still, np.nan)
    return {
        "change": cluster_bootstrap(change, rows["edit"]),
        "flipped": cluster_bootstrap(flipped, rows["edit"]),
    }


def _lines(run: Run) -> Iterator[dict[str, object]]:
    sources = sorted(run.results.rows["source"].unique())
    parts = {"all": run.results, **{name: of_source(run.results, name) for name in sources}}
    for source, results in parts.items():
        for measure, estimate in moved(results).items():
            yield {
                **named(run),
                "source": source,
                "measure": measure,
                **asdict(estimate),
            }


def _figure(model: str, numbers: pd.DataFrame) -> Figure:
    """All sources together on top of each dataset, every source below."""
    order = [
        (dataset, source)
        for dataset in sorted(set(numbers["dataset"]))
        for source in [
            "all",
            *sorted(set(numbers[numbers["dataset"] == dataset]["source"]) - {"all"}),
        ]
    ]
    methods = method_order(numbers["method"])
    figure = Figure(figsize=(PAGE, 0.13 * len(order) + 1.1), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        for n, method in enumerate(methods):
            rows = numbers[(numbers["measure"] == measure) & (numbers["method"] == method)]
            by_source = rows.set_index(["dataset", "source"])
            there = [at for at, key in enumerate(order) if key in by_source.index]
            chosen = by_source.loc[[order[at] for at in there]]
            judged = chosen["value"].notna().to_numpy()
            dots(
                panel,
                chosen[judged],
                (np.array(there) + 0.25 * n - 0.12)[judged],
                method=method,
                label="knowledge neurons" if method == "kn" else "random neurons",
            )
        panel.axvline(0, color="black", lw=0.6)
        panel.set_xlabel(label)
    panels[1].set_xlim(-0.03, 1.03)
    names = [
        dataset_name(dataset).upper() if source == "all" else source.replace("_", " ")
        for dataset, source in order
    ]
    named_rows(panels[0], names)
    panels[0].tick_params(axis="y", labelsize=5.5)
    legend(figure, panels[0], title=model)
    return figure
