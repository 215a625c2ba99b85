"""No text of a figure stands on another or beyond the edge, however much there is to draw."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import get_args

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures import STYLE
from analysis.studies import (
    categorical,
    causal_tracing,
    cooccurrence,
    criteria,
    determiner_neurons,
    generalisation,
    layers,
    localisation,
    locating,
    rome_syntax,
    suppress_number_neuron,
)
from analysis.studies.drawing import METHODS
from analysis.summaries import Summary
from kn_sweeps.attribution.attributor import Kind
from kn_sweeps.cases import COMPONENTS, ROLES
from kn_sweeps.dashboards.figures import headline_figure, layer_figure
from kn_sweeps.data.determiners import DETERMINERS, MODIFIERS
from kn_sweeps.metrics import forgetting
from kn_sweeps.metrics.catalogue import described
from tests.analysis.overlaps import Unreadable, unreadable

MODEL = "a_model_with_rather_a_long_name_7b"
SOURCES = [f"agreement_of_birds_with_their_long_tails_{n}" for n in range(30)]
ESTIMATE = {"value": 0.5, "low": -0.25, "high": 0.75, "n": 12345}


def table(**columns: list[object]) -> pd.DataFrame:
    """Every combination of some values, each with an estimate."""
    rows = itertools.product(*columns.values())
    return pd.DataFrame(rows, columns=list(columns)).assign(**ESTIMATE, intent="replace")


def of_layers() -> Figure:
    rows = table(
        model=["small", "medium", "large"], metric=forgetting.criteria(), layer=[*range(32)]
    )
    return layers._figure(rows)


def of_categorical() -> Figure:
    numbers = table(
        dataset=["blimp"],
        source=["all", *SOURCES],
        method=["kn", "random(kn)", "kn, seed 1", "random(kn), seed 1"],
        prompts=[*categorical.PROMPTS],
        measure=[*categorical.MEASURES],
    )
    return categorical._figure(MODEL, numbers)


def of_causal_tracing() -> Figure:
    numbers = table(
        dataset=["blimp", "pararel"], component=[*COMPONENTS], role=[*ROLES], layer=[*range(32)]
    )
    return causal_tracing._figure(MODEL, numbers.assign(cases=12345, total_effect=0.5))


def of_cooccurrence() -> Figure:
    methods = ["kn", "random(kn)", "rome"]
    numbers = table(method=methods, source=SOURCES[:6], count=[0, 10, 2000])
    found = table(method=methods, metric=["cooccurrence_attribution", "cooccurrence_loss"])
    p = found.assign(metric=found["metric"] + "_p", value=0.001)
    numbers = numbers.assign(attribution=numbers["count"] / 7e6, loss=-numbers["count"] / 3)
    return cooccurrence._figure(MODEL, numbers, pd.concat([found, p]))


def of_symmetry() -> Figure:
    numbers = table(method=[*METHODS], metric=[*criteria.SYMMETRY])
    return criteria._figure(MODEL, numbers, criteria.SYMMETRY)


def of_determiner_neurons() -> Figure:
    numbers = table(determiner=[*DETERMINERS], layer=[10, 11], index=[*range(3000, 3012)])
    shared = np.where(numbers["index"] == 3000, "singular", "")
    shared = np.where(numbers["index"] == 3001, "plural", shared)
    numbers = numbers.assign(shared_by=np.where(numbers["index"] == 3002, "both", shared))
    return determiner_neurons._figure(
        MODEL, numbers.assign(located=True, of_largest=0.5, prompts=12345)
    )


def of_generalisation() -> Figure:
    numbers = table(method=[*METHODS[:3]], edited=SOURCES[:12], measured=SOURCES[:12])
    return generalisation._figure(MODEL, "blimp", numbers)


def of_localisation() -> Figure:
    numbers = table(dataset=["blimp"], source=SOURCES)
    facts = table(dataset=["pararel"], source=[f"P{n}" for n in range(1000, 1038)])
    marks = {"mixed_low": 0.2, "mixed_high": 0.3, "shuffled": 0.1, "p_holm": 0.01, "r_squared": 0.4}
    by_layer = table(dataset=["blimp", "pararel"], layer=[*range(48)])
    by_layer = by_layer.assign(share=1 / 48, low=0.01, high=0.03, neurons=1000, edits=12345)
    return localisation._figure(MODEL, pd.concat([numbers, facts]).assign(**marks), by_layer)


def of_locating() -> Figure:
    kinds = [*get_args(Kind)]
    numbers = table(dataset=["blimp", "pararel"], attribution=kinds, number=["suppressed"])
    curves = table(
        dataset=["blimp", "pararel"], attribution=kinds, curve=["suppressed", "kept"], k=[1, 300000]
    )
    return locating._figure(
        MODEL, numbers.assign(passes=123.0), curves.assign(share=0.5, cases=12345)
    )


def of_rome_syntax() -> Figure:
    numbers = table(source=["all", *SOURCES], metric=forgetting.criteria(), method=[*METHODS[2:]])
    return rome_syntax._figure(MODEL, numbers)


def of_suppress_number_neuron() -> Figure:
    words = [word for group in MODIFIERS.values() for word in group]
    numbers = table(
        suppressed=["singular", "plural"], method=["kn", "random(kn)"], modifier=[*words]
    )
    marks = {"p_vs_random": 0.001, "p_vs_random_holm": 0.001, "p_holm": 0.001, "in_slot": True}
    return suppress_number_neuron._figure(MODEL, numbers.assign(**marks))


def of_a_run() -> Figure:
    metrics: Summary = {one.name: ESTIMATE for one in described()}
    figure = headline_figure(metrics)
    assert figure is not None
    return figure


def of_a_runs_layers() -> Figure:
    return layer_figure([123_456] * 96)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with matplotlib.style.context(STYLE):
        yield


@pytest.mark.parametrize(
    "figure",
    [
        *(of_layers, of_categorical, of_causal_tracing, of_cooccurrence, of_symmetry),
        *(of_determiner_neurons, of_generalisation, of_localisation, of_rome_syntax),
        *(of_suppress_number_neuron, of_locating, of_a_run, of_a_runs_layers),
    ],
)
def test_every_text_of_a_crowded_figure_can_be_read(figure: Callable[[], Figure]) -> None:
    assert unreadable(figure()) == Unreadable([], [])


def test_texts_on_each_other_are_found_and_turned_ones_beside_each_other_are_not() -> None:
    figure = Figure(figsize=(4, 2))
    for place in (0.1, 0.15):
        figure.text(place, 0.3, "a heron stands here", rotation=60)
    assert unreadable(figure) == Unreadable([], [])
    figure.text(0.5, 0.5, "one")
    figure.text(0.5, 0.52, "other")
    figure.text(0.9, 0.9, "beyond the edge of the page")
    found = unreadable(figure)
    assert found.overlapping == [("one", "other")]
    assert found.cut_off == ["beyond the edge of the page"]
