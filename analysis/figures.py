"""Figures of sweeps.

    kn-sweeps figures SWEEP... [--latex] [--out DIR]

Each study (`analysis/studies/`) draws what the runs have the numbers for. A figure is written as
PDF, SVG and PNG, with the numbers behind it as CSV, into
`figures/` of the sweep, or of the folder that holds them all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib.style
import pandas as pd

from kn_sweeps.commands.console import Parser, command, say
from kn_sweeps.records.files import user_path, write_atomically, write_text
from kn_sweeps.records.folders import common, find_folders, listed

from .runs import read_runs
from .studies import STUDIES
from .studies.drawing import Drawing
from .table import number, unevaluated

STYLE = Path(__file__).with_name("figures.mplstyle")
NUMBERS = {"value", "low", "high"}


class NothingToDrawError(ValueError):
    """The runs have the numbers of no study."""


class BrokenStudyError(ValueError):
    """Some studies could not be drawn.

    Attributes:
        drawn: The PNG files of the others.
    """

    def __init__(self, drawn: list[Path], broken: dict[str, Exception]) -> None:
        """Say which and why."""
        reasons = "; ".join(f"{name}: {type(e).__name__}: {e}" for name, e in broken.items())
        super().__init__(f"not drawn, what figures/ has of it is older: {reasons}")
        self.drawn = drawn


def draw(*sweeps: Path, out: Path | None = None, latex: bool = False) -> list[Path]:
    """Write the figures that the runs of some sweeps have the numbers for.

    Args:
        sweeps: Their folders; runs of all are compared.
        out: The folder of the figures; None for `figures/` in what holds all sweeps.
        latex: Write a LaTeX table beside each.

    Returns:
        The PNG files.

    Raises:
        NothingToDrawError: If there is no finished run, or nothing to draw.
        BrokenStudyError: If a study failed; the others are drawn.
    """
    try:
        runs = read_runs(*sweeps)
    except ValueError as error:
        raise NothingToDrawError(str(error)) from error
    folder = out or common(sweeps) / "figures"
    figures: list[Path] = []
    broken: dict[str, Exception] = {}
    with matplotlib.style.context(STYLE):
        for study in STUDIES:
            try:
                for drawing in study(runs):
                    figures.append(write(drawing, folder, latex=latex))
            except Exception as error:
                # What one study does not expect of a run must not cost the others.
                broken[f"{study.__module__.split('.')[-1]}.{study.__name__}"] = error
    if broken:
        raise BrokenStudyError(figures, broken) from next(iter(broken.values()))
    if not figures:
        raise NothingToDrawError(
            f"nothing to draw in {listed(sweeps)}: no study has its numbers here. conf/experiment "
            "has a preset for each (kn-sweeps launch experiment=localisation); docs/studies.md "
            "says what they need"
        )
    return figures


def write(drawing: Drawing, folder: Path, *, latex: bool) -> Path:
    """Write a figure with the numbers behind it; its PNG file."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = drawing.name
    tables = {"": drawing.numbers, **{f"_{name}": table for name, table in drawing.more.items()}}
    for suffix, table in tables.items():
        cells = table.rename(columns=unevaluated).map(unevaluated)
        write_atomically(folder / f"{stem}{suffix}.csv", partial(cells.to_csv, index=False))
    for ending in ("pdf", "svg", "png"):
        save = partial(drawing.figure.savefig, format=ending, dpi=200)
        write_atomically(folder / f"{stem}.{ending}", save)
    if latex:
        table = drawing.numbers if drawing.table is None else drawing.table
        write_text(folder / f"{stem}.tex", to_latex(table))
    return folder / f"{stem}.png"


def to_latex(table: pd.DataFrame) -> str:
    """A table for a paper: an interval stands behind its value, what never differs is left out."""
    shown = table.copy()
    if set(shown) >= NUMBERS:
        shown["value"] = [
            _interval(*row) for row in shown[["value", "low", "high"]].itertuples(index=False)
        ]
        shown = shown.drop(columns=["low", "high"])
    kept = [name for name in shown if len(shown) == 1 or shown[name].astype(str).nunique() > 1]
    shown = shown[kept].rename(columns=lambda name: str(name).replace("_", " "))
    return shown.to_latex(index=False, escape=True, float_format="%.2f", na_rep="--")


def _interval(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "--"
    spread = "" if pd.isna(low) else f" [{number(low)}, {number(high)}]"
    return f"{number(value)}{spread}"


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figures of some sweeps."""
    parser = Parser.of("figures", __doc__, "python -m analysis.figures")
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="its name, or its folder")
    parser.add_argument("--out", type=user_path, help="where they go (default: SWEEP/figures)")
    parser.add_argument("--latex", action="store_true", help="write LaTeX tables too")
    args = parser.parse_args(arguments)
    try:
        _announced(draw(*find_folders(args.sweeps), out=args.out, latex=args.latex))
    except BrokenStudyError as error:
        _announced(error.drawn)
        raise


def _announced(figures: Sequence[Path]) -> None:
    for path in figures:
        say(f"figure: {path} (and .pdf, .svg, .csv)")


if __name__ == "__main__":
    sys.exit(main())
