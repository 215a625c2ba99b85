"""What a study gives, and the marks that all figures share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from ..runs import Run

COLUMN, PAGE = 3.3, 6.9
"""Widths of a column and of both of a two-column paper, in inches."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
GREY = "#7f7f7f"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "d", "<", ">", "8", "p", "h")
"""One for each of `METHODS`, and one for others."""
METHODS = (
    *("kn", "random(kn)", "rome", "random(rome)", "memit", "alphaedit", "ft"),
    *("emmet", "ultraedit", "locft", "lora", "ike", "none"),
)
DATASETS = {"blimp": "BLiMP (syntax)", "pararel": "ParaRel (facts)"}


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers behind it.

    Attributes:
        name: Of its files: the study and the model.
        numbers: All that is drawn, a row a mark.
        figure: The figure.
        table: What a paper would print of the numbers; None for all of them.
        more: Further tables, by name.
    """

    name: str
    numbers: pd.DataFrame
    figure: Figure
    table: pd.DataFrame | None = None
    more: dict[str, pd.DataFrame] = field(default_factory=dict)


def by_model(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """The runs of each model on each data source, named by the model where there is one source."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.model, run.data[1]), []).append(run)
    models = [model for model, _ in groups]
    for (model, source), group in sorted(groups.items()):
        yield (model if models.count(model) == 1 else f"{model}_{source}"), group


def by_setting(runs: Iterable[Run]) -> Iterator[tuple[str, list[Run]]]:
    """The runs of each model and of each way they were done, datasets side by side.

    Where a sweep has several (seeds, limits), each has a name of its own.
    """
    for model, some in by_model(runs):
        labels = list(dict.fromkeys(run.label for run in some))
        for label in labels:
            name = model if len(labels) == 1 else f"{model}_{re.sub(r'[^A-Za-z0-9.]+', '_', label)}"
            first: dict[str, Run] = {}
            for run in some:
                if run.label == label:
                    first.setdefault(run.dataset, run)
            yield name, [first[dataset] for dataset in sorted(first)]


def alone(run: Run) -> bool:
    """Whether every edit was in effect by itself."""
    return bool(run.summary["regime"] == "single")


def dataset_name(dataset: str) -> str:
    """A dataset as figures call it."""
    return DATASETS.get(dataset, dataset)


def method_style(method: str) -> dict[str, str]:
    """Colour and marker of a run by its label: controls are grey and hollow."""
    method = method.split(",")[0]
    number = METHODS.index(method) if method in METHODS else len(METHODS)
    edits = [name for name in METHODS if not _is_control(name)]
    place = edits.index(method) if method in edits else len(edits)
    colour = GREY if _is_control(method) else COLOURS[place % len(COLOURS)]
    face = "white" if _is_control(method) else colour
    return {"color": colour, "marker": MARKERS[number], "markerfacecolor": face}


def _is_control(method: str) -> bool:
    return method == "none" or method.startswith("random")


def method_order(methods: Iterable[str]) -> list[str]:
    """Methods before their controls, known ones first."""
    known = {name: n for n, name in enumerate(METHODS)}
    return sorted(
        set(methods), key=lambda name: (known.get(name.split(",")[0], len(METHODS)), name)
    )


def dots(
    axes: Axes,
    rows: pd.DataFrame,
    at: ArrayLike,
    *,
    method: str | None = None,
    label: str | None = None,
    vertical: bool = False,
    colour: str | None = None,
    marker: str = "o",
) -> None:
    """Estimates as dots with their intervals, at places along the other axis."""
    value = rows["value"].to_numpy(float)
    # Where there is no interval, the mark stands alone.
    low, high = (
        rows[end].astype(float).fillna(rows["value"]).to_numpy() for end in ("low", "high")
    )
    spread = np.abs(np.stack([value - low, high - value]))
    style = method_style(method) if method else {"color": colour or COLOURS[0], "marker": marker}
    common = {"linestyle": "none", "ms": 3.5, "elinewidth": 1, "label": label, **style}
    if vertical:
        axes.errorbar(at, value, yerr=spread, **common)  # type: ignore[arg-type]
    else:
        axes.errorbar(value, at, xerr=spread, **common)  # type: ignore[arg-type]


def beside(methods: Sequence[str], *, widest: float = 0.22) -> dict[str, float]:
    """How far from the middle of its row each method stands, so that no row reaches the next."""
    step = min(widest, 0.8 / len(methods)) if methods else 0.0
    return {name: step * (n - (len(methods) - 1) / 2) for n, name in enumerate(methods)}


def named_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names along the vertical axis, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def heat(
    axes: Axes,
    values: pd.DataFrame,
    *,
    diverging: bool,
    limit: float | None = None,
) -> AxesImage:
    """A matrix as colours; rows and columns are named by its index and columns."""
    matrix = values.to_numpy(float)
    largest = limit if limit is not None else float(np.nanmax(np.abs(matrix), initial=1e-12))
    image = axes.imshow(
        matrix,
        aspect="auto",
        cmap="PuOr_r" if diverging else "cividis",
        vmin=-largest if diverging else 0,
        vmax=largest,
        interpolation="nearest",
    )
    axes.set_yticks(range(len(values.index)), [str(name) for name in values.index])
    axes.grid(visible=False)
    return image


def legend(figure: Figure, axes: Axes, columns: int = 4, title: str | None = None) -> None:
    """One legend above all panels, with what they have in common as its title."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    # A letter takes about 0.05 inch; a mark and the gaps beside it as much as eight.
    longest = max(map(len, unique), default=0)
    columns = max(1, min(columns, int(figure.get_figwidth() / (0.05 * (longest + 8)))))
    figure.legend(
        unique.values(),
        unique,
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        title=title,
    )
