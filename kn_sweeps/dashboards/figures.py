"""The figures of a run: pure functions of its summary."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kn_sweeps.metrics.catalogue import headlines, quantity

if TYPE_CHECKING:
    import PIL.Image
    from matplotlib.figure import Figure


def figures(
    metrics: Mapping[str, Mapping[str, Any]], summary: Mapping[str, Any]
) -> dict[str, PIL.Image.Image]:
    """A run's figures by name: headline metrics, and located neurons by layer, where it has them.

    Args:
        metrics: Its estimates.
        summary: Its summary.
    """
    counts = summary.get("neurons_by_layer")
    drawn = {
        "headline": headline_figure(metrics),
        "located_by_layer": layer_figure(counts) if counts else None,
    }
    return {name: pixels(figure) for name, figure in drawn.items() if figure is not None}


def headline_figure(metrics: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    """The headline metrics with their intervals, a panel a unit; None where there are none."""
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for name in headlines(metrics):
        if metrics[name]["value"] is not None:
            panels.setdefault(quantity(name).unit, []).append(name)
    if not panels:
        return None
    heights = [len(names) + 1 for names in panels.values()]
    figure = Figure(figsize=(5, 0.8 + 0.35 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, names) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(names):
            value, low, high = (metrics[name][part] for part in ("value", "low", "high"))
            axis.plot(value, place, "o", color="#0072b2")
            if low is not None:
                axis.plot([low, high], [place, place], color="#0072b2")
        labels = [f"{name} (n={metrics[name]['n']})" for name in names]
        axis.set(xlabel=unit, yticks=range(len(names)), yticklabels=labels)
        axis.set_ylim(len(names) - 0.5, -0.5)
        if quantity(names[0]).is_share:
            axis.set_xlim(-0.03, 1.03)
    return figure


def layer_figure(counts: Sequence[int]) -> Figure:
    """How many located neurons lie in each layer, from 0."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5, 2.4), layout="constrained")
    axis = figure.subplots()
    axis.bar(range(len(counts)), counts, color="#0072b2")
    axis.set(xlabel="layer", ylabel="located neurons")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def pixels(figure: Figure) -> PIL.Image.Image:
    """A figure as an image; given a figure itself, W&B would import pyplot."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return Image.open(drawn)
