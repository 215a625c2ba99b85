"""The report of a sweep as one HTML file: `python -m analysis.report results/SWEEP`.

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
from kn_sweeps.files import about_files, user_path, write_text


def write(sweep: Path, out: Path) -> None:
    """Write the report of all finished runs below a folder.

    Args:
        sweep: The folder, results/SWEEP.
        out: The file; it is replaced whole or not at all.

    Raises:
        OSError: If it cannot be written.
        ValueError: If there is no such folder, or no finished run in it.
    """
    if not sweep.is_dir():
        raise ValueError(f"there is no folder {sweep}")
    runs, found = finished_runs(sweep)
    if not runs:
        broken = "".join(f"; could not read {path}: {why}" for path, why in found.broken.items())
        raise ValueError(f"{sweep} has no finished run; {found.unfinished} unfinished{broken}")
    html = page(sweep, runs, found)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report of one sweep.

    Returns:
        0, or 1 after an error, which is printed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m analysis.report", description="Write the report of a sweep as HTML."
    )
    parser.add_argument(
        "sweep", type=user_path, help="a sweep's folder, results/SWEEP, or its name"
    )
    parser.add_argument(
        "--out", type=user_path, help="the file to write (default: SWEEP/report.html)"
    )
    chosen = parser.parse_args(arguments)
    named = Path("results") / chosen.sweep
    sweep = named if not chosen.sweep.is_dir() and named.is_dir() else chosen.sweep
    out = chosen.out or sweep / "report.html"
    try:
        write(sweep, out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: could not write {out}: {about_files(error)}", file=sys.stderr)
        return 1
    print(f"report: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
