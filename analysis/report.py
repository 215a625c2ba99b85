"""The report of sweeps as one HTML file: `python -m analysis.report SWEEP...`.

It opens from disk, without a network: overview, comparison, metric plots, the studies' figures,
heat maps of neurons and an example browser.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.reporting.page import page
from analysis.runs import finished_runs
from kn_sweeps.records.files import about_files, user_path, write_text
from kn_sweeps.records.folders import common, find_folders, listed


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of some sweeps.

    Returns:
        0, or 1 after an error, which is printed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description="Write the report of sweeps as HTML."
    )
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="its name, or its folder")
    parser.add_argument(
        "--out", type=user_path, help="the file to write (default: SWEEP/report.html)"
    )
    chosen = parser.parse_args(arguments)
    try:
        sweeps = find_folders(chosen.sweeps)
        write(sweeps, out := chosen.out or common(sweeps) / "report.html")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: could not write the report: {about_files(error)}", file=sys.stderr)
        return 1
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
