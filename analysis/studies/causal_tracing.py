"""Average indirect effect by token role and layer, for facts and for syntax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.cases import COMPONENTS, ROLES
from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.metrics.tracing import NAME

from ..runs import Run, about
from .drawing import PAGE, Drawing, by_setting, dataset_name, heat

TITLES = {"state": "one state", "mlp": "MLPs in a window", "attention": "attentions in a window"}


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A figure a model: a heat map of roles x layers for every dataset and component."""
    fitting = [run for run in runs if not run.results.measurements.get(NAME, pd.DataFrame()).empty]
    for model, chosen in by_setting(fitting):
        numbers = pd.concat([_numbers(run) for run in chosen], ignore_index=True)
        yield Drawing(
            f"causal_tracing_{model}", numbers, _figure(model, numbers), table=_best(numbers)
        )


def _numbers(run: Run) -> pd.DataFrame:
    """A row a component, role and layer: the average indirect effect over cases."""
    records = run.results.measurements[NAME]
    cases = records.drop_duplicates("case")
    total = float((cases["clean"] - cases["corrupted"]).mean())
    lines = []
    for (component, role, layer), rows in records.groupby(["component", "role", "layer"]):
        estimate = Bootstrap(resamples=500).mean(rows["effect"], rows["case"])
        lines.append(
            {
                **about(run),
                "component": component,
                "role": role,
                "layer": layer,
                **asdict(estimate),
                "cases": len(cases),
                "total_effect": total,
            }
        )
    return pd.DataFrame(lines)


def _best(numbers: pd.DataFrame) -> pd.DataFrame:
    """The layer with the largest effect of every dataset, component and role."""
    at = numbers.groupby(["dataset", "component", "role"])["value"].idxmax()
    return numbers.loc[at]


def _figure(model: str, numbers: pd.DataFrame) -> Figure:
    datasets = list(dict.fromkeys(numbers["dataset"]))
    components = [name for name in COMPONENTS if name in set(numbers["component"])]
    figure = Figure(figsize=(PAGE, 1.5 * len(datasets) + 0.5), layout="constrained")
    panels = figure.subplots(len(datasets), len(components), sharey="row", squeeze=False)
    for line, dataset in zip(panels, datasets, strict=True):
        of_dataset = numbers[numbers["dataset"] == dataset]
        largest = float(of_dataset["value"].abs().max())
        negative = bool((of_dataset["value"] < -0.02 * largest).any())
        roles = [role for role in ROLES if role in set(of_dataset["role"])]
        for panel, component in zip(line, components, strict=True):
            rows = of_dataset[of_dataset["component"] == component]
            values = rows.pivot_table(index="role", columns="layer", values="value")
            limit = max(largest, 1e-12)
            image = heat(panel, values.reindex(roles), diverging=negative, limit=limit)
            panel.set_title(TITLES[component])
            layers = np.array(values.columns)
            panel.set_xticks(layers[:: max(1, len(layers) // 6)])
            panel.set_xlabel("layer")
        cases, total = of_dataset["cases"].iloc[0], of_dataset["total_effect"].iloc[0]
        line[0].set_ylabel(f"{dataset_name(dataset)}\n{cases} cases, total effect {total:.2f}")
        figure.colorbar(image, ax=list(line), label="average indirect effect", pad=0.01)
    figure.suptitle(model, fontsize=8)
    return figure
