"""Bring the runs of a sweep to Weights & Biases, or up to date there.

    python -m kn_sweeps.sync SWEEP             # what is not there yet, whatever tracker= said
    python -m kn_sweeps.sync SWEEP --watch     # until the sweep is over: progress too

Everything is read from the run directories, at any time and as often as you like. SWEEP is its
folder, results/NAME, or the name alone. Ends with 1 if a run did not arrive, and says why.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kn_sweeps.dashboards.candidates import Sweep
    from kn_sweeps.dashboards.publisher import Publisher, Result

EVERY_S = 10.0
"""How often a sweep that is followed is looked at."""
_HEARTBEAT_S = 120.0
"""A run that is silent for longer counts as crashed on W&B."""


class Following:
    """Publishes a sweep's runs again and again, and says what is worth saying once."""

    def __init__(self, sweep: Sweep, publisher: Publisher, said: Callable[[str], None]) -> None:
        """Follow a sweep; `said` is told what went wrong, a line each."""
        self.sweep, self.publisher, self._said = sweep, publisher, said
        self._reasons: dict[Path, str] = {}
        self._sent: dict[Path, float] = {}
        self.counts: Counter[str] = Counter()

    def look(self, only: Callable[[Path], bool] = lambda _: True) -> bool:
        """Publish what is new; gives whether all is there.

        Args:
            only: Which run directories.
        """
        from kn_sweeps.dashboards.reading import state_of

        jobs = self.sweep.jobs()
        found, broken = self.sweep.candidates()
        chosen = [run for run in found if only(run.directory)]
        silent = [
            run.directory
            for run in chosen
            if run.directory in self._sent
            and time.monotonic() - self._sent[run.directory] > _HEARTBEAT_S
            and state_of(run.directory, jobs) == "running"
        ]
        results = self.publisher.publish(chosen, jobs, self._told, silent)
        for path, why in broken.items():
            if only(path):
                self._failed(path, path.name, why)
        self.counts = Counter(result.what for result in results)
        return not self.counts["failed"] and not any(only(path) for path in broken)

    def _told(self, result: Result) -> None:
        path = result.run.directory
        if result.what == "failed":
            self._failed(path, f"{path.name} [{result.run.name}]", result.why)
        else:
            self._sent[path] = time.monotonic()
            self._reasons.pop(path, None)

    def _failed(self, path: Path, shown: str, why: str) -> None:
        if self._reasons.get(path) != why:
            self._said(f"{shown}: {why}")
        self._reasons[path] = why


def sync(sweep: Sweep, publisher: Publisher, every_s: float | None = None) -> int:
    """Publish a sweep; gives the exit code.

    Args:
        sweep: Its runs.
        publisher: Where to.
        every_s: How often, until no run is running or waiting; None for once.
    """
    following = Following(sweep, publisher, _complain)
    while True:
        # Asked before: what ends in between is published below.
        more = every_s is not None and sweep.more_to_come(sweep.jobs())
        complete = following.look()
        counts = following.counts
        if counts["sent"] or not more:
            print(
                f"{counts['sent']} runs sent, {counts['known']} were there already"
                + (f", {counts['failed']} did not arrive" if counts["failed"] else ""),
                flush=True,
            )
        if every_s is None or not more:
            return 0 if complete else 1
        time.sleep(every_s)


def _complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish one sweep.

    Returns:
        0; 1 if something did not arrive or there is nothing.
    """
    parser = argparse.ArgumentParser(
        prog="python -m kn_sweeps.sync",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("sweep", help="results/NAME or NAME")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=EVERY_S,
        metavar="SECONDS",
        help=f"stay until the sweep is over, and look so often (default: {EVERY_S:.0f})",
    )
    parser.add_argument("--project", help="W&B project (default: the runs' tracker.project)")
    parser.add_argument("--entity", help="W&B team or user (default: the runs' tracker.entity)")
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long one run may take (default: 60)",
    )
    chosen = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    try:
        from kn_sweeps.dashboards.candidates import Sweep, find_folder
        from kn_sweeps.dashboards.publisher import Publisher
        from kn_sweeps.dashboards.wandb import server

        sweep = Sweep(find_folder(chosen.sweep), chosen.project, chosen.entity)
        return sync(sweep, Publisher(server(), chosen.patience), chosen.watch)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Not by an exit, which would wait for what is being sent: that ends by itself.
        sys.stdout.flush()
        os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
