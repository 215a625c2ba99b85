"""Which neurons express a determiner, and which do those of a number share (figures 1, 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kn_sweeps.data.determiners import DETERMINERS

from ..runs import Run
from .drawing import PAGE, Drawing, by_setting, heat

MOST = 24
"""Neurons drawn at most."""


def study(runs: Sequence[Run]) -> Iterator[Drawing]:
    """A heat map a model: determiners x neurons, in shares of each prompt's largest score."""
    fitting = [
        run
        for run in runs
        if run.dataset == "determiners"
        and run.setting("dataset.by") == "determiner"
        and run.results.attributions
    ]
    for model, (run,) in by_setting(fitting):
        numbers = _numbers(run)
        if not numbers.empty:
            yield Drawing(f"determiner_neurons_{model}", numbers, _figure(run.model, numbers))


def _numbers(run: Run) -> pd.DataFrame:
    """A row a determiner and neuron: those located for some determiner, best first."""
    scores = run.results.attributions
    words = [word for word in DETERMINERS if word in scores]
    located = {found["source"]: found["neurons"] for found in run.results.located}
    width = next(iter(scores.values())).shape[1] // run.layers
    named = dict.fromkeys(
        (int(layer), int(index))
        for rank in range(max(map(len, located.values()), default=0))
        for word in words
        for layer, index in located.get(word, [])[rank : rank + 1]
    )
    means = {word: scores[word].mean(0) for word in words}
    # A prompt with a likely answer must not outweigh the others: each is measured by its largest.
    relative = {word: (scores[word] / scores[word].max(1, keepdims=True)).mean(0) for word in words}
    threshold = float(run.setting("method.threshold") or 0)
    shares = {word: _coarse_share(scores[word], threshold) for word in words}
    lines = []
    for layer, index in list(named)[:MOST]:
        at = layer * width + index
        for word in words:
            lines.append(
                {
                    "model": run.model,
                    "determiner": word,
                    "number": DETERMINERS[word],
                    "layer": layer,
                    "index": index,
                    "attribution": float(means[word][at]),
                    "of_largest": float(relative[word][at]),
                    "coarse_share": float(shares[word][at]),
                    "located": [layer, index] in [list(n) for n in located.get(word, [])],
                    "shared_by": _shared_by(located, layer, index),
                    "prompts": len(scores[word]),
                }
            )
    return pd.DataFrame(lines)


def _coarse_share(scores: np.ndarray, threshold: float) -> np.ndarray:
    """In which share of the prompts' coarse sets each neuron is."""
    share: np.ndarray = (scores > threshold * scores.max(1, keepdims=True)).mean(0)
    return share


def _shared_by(located: Mapping[str, Sequence[Sequence[int]]], layer: int, index: int) -> str:
    """The number all of whose determiners have the neuron; `both` or nothing otherwise."""
    having = {
        word for word, neurons in located.items() if [layer, index] in [list(n) for n in neurons]
    }
    numbers = [
        number
        for number in dict.fromkeys(DETERMINERS.values())
        if {word for word, own in DETERMINERS.items() if own == number} <= having
    ]
    return "both" if len(numbers) == 2 else "".join(numbers)


def _figure(model: str, numbers: pd.DataFrame) -> Figure:
    """Shared neurons first; a star marks what was located for the determiner."""
    order = {"singular": 0, "plural": 1, "both": 2, "": 3}
    columns = numbers.drop_duplicates(["layer", "index"])
    columns = columns.assign(rank=columns["shared_by"].map(order)).sort_values(
        "rank", kind="stable"
    )
    names = list(zip(columns["layer"], columns["index"], strict=True))
    words = [word for word in DETERMINERS if word in set(numbers["determiner"])]
    cells = numbers.set_index(["determiner", "layer", "index"])
    values = pd.DataFrame(
        [[cells.loc[(word, *name), "of_largest"] for name in names] for word in words],
        index=[f"{word} ({DETERMINERS[word]})" for word in words],
    )
    figure = Figure(figsize=(PAGE, 2.4), layout="constrained")
    axes = figure.subplots()
    image = heat(axes, values, diverging=True, limit=1)
    for column, name in enumerate(names):
        for row, word in enumerate(words):
            if cells.loc[(word, *name), "located"]:
                axes.text(column, row, "*", ha="center", va="center", color="black", fontsize=8)
    axes.set_xticks(range(len(names)), [f"({a}, {b})" for a, b in names], rotation=60, ha="right")
    shared_by = columns["shared_by"].tolist()
    for shared in dict.fromkeys(filter(None, shared_by)):
        # Neurons of one number stand together and are named once; turned, for they may be few.
        middle = shared_by.index(shared) + (shared_by.count(shared) - 1) / 2
        turned = {"rotation": 60.0, "rotation_mode": "anchor", "fontsize": 6}
        axes.text(middle, -0.62, shared, ha="left", va="bottom", **turned)  # type: ignore[arg-type]
    prompts = int(numbers["prompts"].min())
    axes.set_xlabel(
        "neuron (layer, index); * located for the determiner; above: shared by a number"
    )
    axes.set_title(f"{model}: mean attribution, {prompts} prompts a determiner", pad=26)
    figure.colorbar(image, ax=axes, label="share of a prompt's largest", pad=0.01)
    return figure
