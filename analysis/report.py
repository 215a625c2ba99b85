"""The report of sweeps as one HTML file.

    kn-sweeps report SWEEP... [--out FILE]

It opens from disk, without a network: overview, comparison, metric plots, the studies' figures,
heat maps of neurons and an example browser.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from kn_sweeps.commands.console import Parser, command, say
from kn_sweeps.records.files import about_files, user_path, write_text
from kn_sweeps.records.folders import common, find_folders, listed

from .reporting.page import page
from .runs import finished_runs


def write(sweeps: Sequence[Path], out: Path) -> None:
    """Write the report of all finished runs below some folders.

    Args:
        sweeps: The folders, such as results/SWEEP; their figures go beside it where it is one.
        out: The file; it is replaced whole or not at all.

    Raises:
        OSError: If it cannot be written.
        ValueError: If there is no finished run.
    """
    runs, found = finished_runs(*sweeps)
    if not runs:
        broken = "".join(f"; could not read {path}: {why}" for path, why in found.broken.items())
        raise ValueError(
            f"{listed(sweeps)} has no finished run; {found.unfinished} unfinished{broken}"
        )
    html = page(sweeps, common(sweeps) / "figures", runs, found)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of some sweeps."""
    parser = Parser.of("report", __doc__, "python -m analysis.report")
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="its name, or its folder")
    parser.add_argument(
        "--out", type=user_path, help="the file to write (default: SWEEP/report.html)"
    )
    chosen = parser.parse_args(arguments)
    sweeps = find_folders(chosen.sweeps)
    out = chosen.out or common(sweeps) / "report.html"
    try:
        write(sweeps, out)
    except OSError as error:
        raise ValueError(f"could not write the report: {about_files(error)}") from error
    say(f"report: {out}")


if __name__ == "__main__":
    sys.exit(main())
