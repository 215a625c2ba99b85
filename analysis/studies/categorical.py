"""How far an edit of neurons moves probabilities, and how seldom it flips an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.cases import ProbeKind
from kn_sweeps.metrics.answers import answered
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Bootstrap, Estimate

from ..runs import Run, of_source
from ..runs import about as named
from .drawing import (
    PAGE,
    Drawing,
    alone,
    beside,
    by_model,
    dataset_name,
    dots,
    legend,
    method_order,
    named_rows,
)

MEASURES = {
    "change": "relative change\nof P(old)",
    "flipped": "right answers\nlost",
}
PROMPTS: dict[ProbeKind, str] = {"edit": "prompts that locate", "rephrase": "held-out prompts"}
"""The edit's own prompt is among those that locate: only the others are a test of them."""
NEURONS = ("kn", "random(kn)")


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: both measures side by side, with the random control."""
    fitting = [
        run
        for run in runs
        if run.method in NEURONS
        and run.summary["intent"] == "erase"
        and run.dataset in ("blimp", "pararel")
        and alone(run)
    ]
    for model, some in by_model(fitting):
        if {run.method for run in some} < set(NEURONS):
            continue
        numbers = pd.DataFrame([line for run in some for line in _lines(run)])
        table = numbers[numbers["source"] == "all"]
        yield Drawing(f"categorical_{model}", numbers, _figure(model, numbers), table=table)


def moved(results: Results, kind: ProbeKind) -> dict[str, Estimate]:
    """`change`, (post - pre) / pre of P(old), and `flipped`, of the answers that were right."""
    rows = results.of(kind)
    change = np.expm1((rows["post_log_prob_old"] - rows["pre_log_prob_old"]).to_numpy(float))
    was, still = (answered(rows, when, "old", "exact") for when in ("pre", "post"))
    flipped = np.where(was == 1, 1 - still, np.nan)
    return {
        "change": Bootstrap().mean(change, rows["edit"]),
        "flipped": Bootstrap().mean(flipped, rows["edit"]),
    }


def _lines(run: Run) -> Iterator[dict[str, object]]:
    sources = sorted(run.results.rows["source"].unique())
    parts = {"all": run.results, **{name: of_source(run.results, name) for name in sources}}
    for source, results in parts.items():
        for kind in PROMPTS:
            for measure, estimate in moved(results, kind).items():
                about = {**named(run), "source": source, "prompts": kind, "measure": measure}
                yield {**about, **asdict(estimate)}


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
    judged = numbers[numbers["n"] > 0]
    shown = [
        (measure, kind)
        for measure in MEASURES
        for kind in PROMPTS
        if ((judged["measure"] == measure) & (judged["prompts"] == kind)).any()
    ]
    figure = Figure(figsize=(PAGE, 0.13 * len(order) + 1.1), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True)
    for panel, (measure, kind) in zip(panels, shown, strict=True):
        of_panel = numbers[(numbers["measure"] == measure) & (numbers["prompts"] == kind)]
        for method, offset in beside(methods, widest=0.25).items():
            rows = of_panel[of_panel["method"] == method]
            by_source = rows.set_index(["dataset", "source"])
            there = [at for at, key in enumerate(order) if key in by_source.index]
            chosen = by_source.loc[[order[at] for at in there]]
            there_too = chosen["value"].notna().to_numpy()
            dots(
                panel,
                chosen[there_too],
                (np.array(there) + offset)[there_too],
                method=method,
                label=method,
            )
        panel.axvline(0, color="black", lw=0.6)
        panel.set(xlabel=MEASURES[measure], title=PROMPTS[kind])
        if measure == "flipped":
            panel.set_xlim(-0.05, 1.05)
    names = [
        dataset_name(dataset).upper() if source == "all" else source.replace("_", " ")
        for dataset, source in order
    ]
    named_rows(panels[0], names)
    panels[0].tick_params(axis="y", labelsize=5.5)
    legend(figure, panels[0], title=model)
    return figure
