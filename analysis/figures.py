"""Figures of sweeps: `python -m analysis.figures SWEEP... [--latex] [--out DIR]`.

Each study (`analysis/studies/`) draws what the runs have the numbers for. A figure is written as
PDF, SVG and PNG, with the numbers behind it as CSV, into
`figures/` of the sweep, or of the folder that holds them all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from analysis.runs import read_runs
from analysis.studies import STUDIES
from analysis.studies.drawing import Drawing
from analysis.table import number, unevaluated
from kn_sweeps.records.files import user_path, write_atomically, write_text
from kn_sweeps.records.folders import common, find_folders, listed, sweep_folder

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
                    figures.append(_written(drawing, folder, latex=latex))
            except Exception as error:
                # What one study does not expect of a run must not cost the others.
                broken[f"{study.__module__.split('.')[-1]}.{study.__name__}"] = error
    if broken:
        raise BrokenStudyError(figures, broken) from next(iter(broken.values()))
    if not figures:
        raise NothingToDrawError(
            f"nothing to draw in {listed(sweeps)}: no study has its numbers here. conf/experiment "
            "has a preset for each (python launch.py experiment=localisation); docs/studies.md "
            "says what they need"
        )
    return figures


def _written(drawing: Drawing, folder: Path, *, latex: bool) -> Path:
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


class Draw(Callback):
    """Draw when a sweep is over; a preset of `conf/experiment` asks for it."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Draw what the finished runs have the numbers for, once they are finished."""
        sweep = sweep_folder(config.results_dir, config.sweep)
        submitted = config.hydra.runtime.choices["hydra/launcher"] not in ("local", "processes")
        if config.dry_run:
            return
        if submitted and not config.wait:
            print(f"figures, when the runs are done: python -m analysis.figures {sweep}")
        else:
            _report([sweep])


def _report(sweeps: Sequence[Path], *, out: Path | None = None, latex: bool = False) -> bool:
    failure: ValueError | None = None
    figures: list[Path] = []
    try:
        figures = draw(*sweeps, out=out, latex=latex)
    except BrokenStudyError as error:
        figures, failure = error.drawn, error
    except NothingToDrawError as error:
        failure = error
    for path in figures:
        print(f"figure: {path} (and .pdf, .svg, .csv)")
    if failure is not None:
        print(f"error: {failure}", file=sys.stderr)
    return failure is None


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the figures of some sweeps.

    Returns:
        0, or 1 after an error, which is printed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m analysis.figures", description="Draw the figures of sweeps."
    )
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="its name, or its folder")
    parser.add_argument("--out", type=user_path, help="where they go (default: SWEEP/figures)")
    parser.add_argument("--latex", action="store_true", help="write LaTeX tables too")
    args = parser.parse_args(arguments)
    try:
        sweeps = find_folders(args.sweeps)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if _report(sweeps, out=args.out, latex=args.latex) else 1


if __name__ == "__main__":
    sys.exit(main())
