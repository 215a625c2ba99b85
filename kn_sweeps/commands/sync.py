"""Bring the runs of a sweep to Weights & Biases (or where tracker= said), or up to date there.

    kn-sweeps sync SWEEP             # what is not there yet, whatever tracker= said
    kn-sweeps sync SWEEP --watch     # until the sweep is over: progress too

Everything is read from the run directories, at any time and as often as you like. SWEEP is its
folder, results/NAME, or the name alone. Ends with 1 if a run did not arrive, and says why.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from signal import SIGINT
from typing import TYPE_CHECKING

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.dashboards.following import EVERY_S, Following

if TYPE_CHECKING:
    from kn_sweeps.dashboards.candidates import Sweep
    from kn_sweeps.dashboards.publisher import Publisher


def sync(sweep: Sweep, publisher: Publisher, every_s: float | None = None) -> int:
    """Publish a sweep; gives the exit code.

    Args:
        sweep: Its runs.
        publisher: Where to.
        every_s: How often, until no run is running or waiting; None for once.
    """
    following = Following(sweep, publisher, remark)
    while True:
        # Asked before: what ends in between is published below.
        more = every_s is not None and sweep.more_to_come(sweep.jobs())
        complete = following.look()
        counts = following.counts
        if counts["sent"] or not more:
            say(
                f"{counts['sent']} runs sent, {counts['known']} were there already"
                + (f", {counts['failed']} did not arrive" if counts["failed"] else "")
            )
        if every_s is None or not more:
            return 0 if complete else 1
        time.sleep(every_s)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Publish one sweep.

    Returns:
        0; 1 if something did not arrive or there is nothing.
    """
    parser = Parser.of("sync", __doc__)
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
        from kn_sweeps.dashboards.candidates import Sweep
        from kn_sweeps.dashboards.publisher import Publisher
        from kn_sweeps.records.folders import find_folder

        sweep = Sweep(find_folder(chosen.sweep), chosen.project, chosen.entity)
        with Publisher(chosen.patience) as publisher:
            return sync(sweep, publisher, chosen.watch)
    except KeyboardInterrupt:
        # Not by an exit, which would wait for what is being sent: that ends by itself.
        sys.stdout.flush()
        os._exit(128 + SIGINT)


if __name__ == "__main__":
    sys.exit(main())
