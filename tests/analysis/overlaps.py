"""Where the texts of a figure are, as they are drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray

Corners = NDArray[np.float64]
"""The four corners of a text, in pixels; shape (4, 2)."""

SLACK = 0.5
"""Pixels on each side by which boxes may touch: extents are rounded up."""


@dataclass(frozen=True)
class Unreadable:
    """What of a figure's texts cannot be read.

    Attributes:
        overlapping: The pairs of which one is drawn over the other.
        cut_off: Those that do not fit into the figure.
    """

    overlapping: list[tuple[str, str]]
    cut_off: list[str]


def unreadable(figure: Figure) -> Unreadable:
    """Draw a figure and look at its texts."""
    boxes = [(text.get_text(), _corners(text)) for text in drawn(figure)]
    overlapping = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(boxes, 2)
        if not _apart(a, b) and not _apart(b, a)
    ]
    size = np.array([figure.bbox.width, figure.bbox.height])
    cut_off = [text for text, at in boxes if (at < -SLACK).any() or (at > size + SLACK).any()]
    return Unreadable(overlapping, cut_off)


def drawn(figure: Figure) -> list[Text]:
    """The texts that a figure shows; a tick beyond the axes has one that is never drawn."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the layout settles
    with _noted() as texts:
        canvas.draw()
    return [text for text in texts if text.get_text().strip()]


@contextmanager
def _noted() -> Iterator[list[Text]]:
    texts: dict[int, Text] = {}
    draw = Text.draw

    def noting(self: Text, renderer: Any) -> None:
        if self.get_visible():
            texts[id(self)] = self
        draw(self, renderer)

    found: list[Text] = []
    with mock.patch.object(Text, "draw", noting):
        yield found
    found += texts.values()


def _corners(text: Text) -> Corners:
    """A box around a turned text is far larger than the text: this one is turned with it."""
    around = Text.get_window_extent(text)
    centre = np.array([(around.x0 + around.x1) / 2, (around.y0 + around.y1) / 2])
    angle = text.get_rotation()
    text.set_rotation(0)
    level = Text.get_window_extent(text)
    text.set_rotation(angle)
    half = np.array([level.width, level.height]) / 2 - SLACK
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half @ rotation + centre


def _apart(one: Corners, other: Corners) -> bool:
    """Whether a side of one box has the whole of the other beyond it."""
    for side in (one[1] - one[0], one[2] - one[1]):
        a, b = one @ side, other @ side
        if a.max() <= b.min() or b.max() <= a.min():
            return True
    return False
