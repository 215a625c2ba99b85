"""Show runs on a local page, without an account or a network: Trackio's dashboard.

    kn-sweeps dashboard                    # all sweeps of results/
    kn-sweeps dashboard SWEEP ... --port 7861

Run directories are brought to Trackio's store on this machine (TRACKIO_DIR; else in the cache of
Hugging Face), and what is running is followed until Ctrl-C. --once brings them there and ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import webbrowser
from collections.abc import Sequence
from importlib.util import find_spec

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.dashboards.following import EVERY_S, Following
from kn_sweeps.dashboards.place import MISSING
from kn_sweeps.records.folders import RESULTS, find_folder, find_folders, sweeps_in

_PATIENCE_S = 60.0


def publish(sweeps: Sequence[Following], *, quiet: bool = False) -> bool:
    """Bring sweeps to the store; whether all is there. Quietly, what is nothing new is not said."""
    complete = all([one.look() for one in sweeps])
    counts = [one.counts for one in sweeps]
    if not quiet or any(one["sent"] for one in counts):
        sent, known, failed = (
            sum(one[what] for one in counts) for what in ("sent", "known", "failed")
        )
        say(
            f"{sent} runs sent, {known} were there already"
            + (f", {failed} did not arrive" if failed else "")
        )
    return complete


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Publish sweeps and show them.

    Returns:
        0; 1 if, with --once, something did not arrive.

    Raises:
        ValueError: If there are no runs, or Trackio is not installed.
    """
    parser = Parser.of("dashboard", __doc__)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="results/NAME or NAME")
    parser.add_argument("--project", help="Trackio's project (default: the runs' tracker.project)")
    parser.add_argument("--port", type=int, help="of the page (default: the first free from 7860)")
    parser.add_argument("--no-browser", action="store_true", help="only print the page's address")
    parser.add_argument("--once", action="store_true", help="bring runs to the store, and end")
    chosen = parser.parse_args(arguments)
    if find_spec("trackio") is None:
        raise ValueError(MISSING)
    from kn_sweeps.dashboards.candidates import Sweep
    from kn_sweeps.dashboards.publisher import Publisher
    from kn_sweeps.dashboards.worker import QUIETLY

    names = chosen.sweeps or sweeps_in(RESULTS)
    folders = find_folders(names) if names else [find_folder(str(RESULTS))]
    sweeps = [
        Following(
            Sweep(one, project=chosen.project, where="trackio"), Publisher(_PATIENCE_S), remark
        )
        for one in folders
    ]
    complete = publish(sweeps)
    if chosen.once:
        return 0 if complete else 1
    os.environ.update(QUIETLY)
    address = _shown(chosen.port)
    say(f"dashboard: {address} (Ctrl-C ends it)")
    if not chosen.no_browser:
        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(EVERY_S)
            publish(sweeps, quiet=True)
    return 0


def _shown(port: int | None) -> str:
    """Serve the page on this machine alone; its address."""
    import trackio

    from kn_sweeps.metrics.catalogue import described

    first = [one.name for one in described() if one.headline]
    os.environ.setdefault("TRACKIO_PLOT_ORDER", ",".join(first))
    # Its own words name an address that anyone could write to.
    with contextlib.redirect_stdout(io.StringIO()):
        _, address, *_ = trackio.show(
            host="127.0.0.1", server_port=port, open_browser=False, block_thread=False, share=False
        )
    return str(address)


if __name__ == "__main__":
    sys.exit(main())
