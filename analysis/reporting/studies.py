"""The figures of the studies, each as one image with the numbers behind it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..figures import BrokenStudyError, NothingToDrawError, draw

LARGEST_SVG = 400_000
"""Bytes from which a figure is embedded as PNG: a vector heat map can take megabytes."""


@dataclass(frozen=True)
class Study:
    """One figure.

    Attributes:
        title: Its file's name in words.
        image: The figure as a data: URI.
        numbers: The CSV behind it as a data: URI; empty where there is none.
        file: What a download of the CSV is called.
    """

    title: str
    image: str
    numbers: str
    file: str


def studies(sweeps: Sequence[Path], out: Path) -> tuple[list[Study], str]:
    """Draw what the runs of some sweeps have the numbers for, into a folder.

    Returns:
        The figures, none where the runs are no study; and why they could not be drawn, if so.
    """
    try:
        return [_study(path) for path in draw(*sweeps, out=out)], ""
    except NothingToDrawError:
        return [], ""
    except BrokenStudyError as error:
        return [_study(path) for path in error.drawn], f"Some figures are missing: {error}"


def _study(png: Path) -> Study:
    svg, numbers = png.with_suffix(".svg"), png.with_suffix(".csv")
    vector = svg.is_file() and svg.stat().st_size <= LARGEST_SVG
    image = _embedded(svg, "image/svg+xml") if vector else _embedded(png, "image/png")
    csv = _embedded(numbers, "text/csv") if numbers.is_file() else ""
    return Study(png.stem.replace("_", " "), image, csv, numbers.name)


def _embedded(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
