"""Show runs on a local page, without an account or a network: Trackio's dashboard.

    kn-sweeps dashboard                    # all sweeps of results/
    kn-sweeps dashboard SWEEP ... --port 7861

Run directories are brought to Trackio's store on this machine (TRACKIO_DIR; else in the cache of
Hugging Face), and what is running is followed until Ctrl-C, new sweeps among it unless some are
named. --once brings them there and ends.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from kn_sweeps.commands.console import Parser, command, remark, say
from kn_sweeps.dashboards.following import EVERY_S, Following
from kn_sweeps.dashboards.place import MISSING, stay_here
from kn_sweeps.records.folders import RESULTS, find_folder, find_folders, sweeps_in

if TYPE_CHECKING:
    from kn_sweeps.dashboards.candidates import Sweep
    from kn_sweeps.dashboards.publisher import Publisher

_PATIENCE_S = 60.0
_ORDER = "TRACKIO_PLOT_ORDER"


class Shown:
    """The sweeps that are on the page."""

    def __init__(
        self, names: Sequence[str], publisher: Publisher, project: str | None = None
    ) -> None:
        """All sweeps of results/, those to come too, where none is named.

        Raises:
            ValueError: If there are no runs.
        """
        self._named, self._project = find_folders(names), project
        if not names and not sweeps_in(RESULTS):
            self._named = [find_folder(str(RESULTS))]
        self._publisher = publisher
        self._ordered = _ORDER in os.environ
        self._sweeps: dict[Path, tuple[Sweep, Following]] = {}

    def look(self, *, quiet: bool = False) -> bool:
        """Bring what is new to the store; whether all is there.

        Args:
            quiet: Say nothing where nothing was sent.
        """
        from kn_sweeps.dashboards.candidates import Sweep

        for folder in self._named or [RESULTS / name for name in sweeps_in(RESULTS)]:
            if folder not in self._sweeps:
                sweep = Sweep(folder, project=self._project, where="trackio")
                self._sweeps[folder] = sweep, Following(sweep, self._publisher, remark)
        complete = all([following.look() for _, following in self._sweeps.values()])
        counts = sum((following.counts for _, following in self._sweeps.values()), Counter[str]())
        if counts["sent"] or not quiet:
            failed = f", {counts['failed']} did not arrive" if counts["failed"] else ""
            say(f"{counts['sent']} runs sent, {counts['known']} were there already{failed}")
            if not self._ordered:
                os.environ[_ORDER] = ",".join(self._headlines())
        return complete

    def project(self) -> str | None:
        """The project of the first run; None without any."""
        runs = (run for sweep, _ in self._sweeps.values() for run in sweep.candidates()[0])
        return next((run.place.project for run in runs), None)

    def _headlines(self) -> list[str]:
        """Headline metrics in the order of the runs' summaries, which tables have too."""
        from kn_sweeps.metrics.catalogue import headlines
        from kn_sweeps.records.run_directory import runs_in

        found: dict[str, None] = {}
        for run in (run for folder in self._sweeps for run in runs_in(folder)):
            with contextlib.suppress(OSError, ValueError):
                found |= dict.fromkeys(run.summary()["metrics"])
        return headlines(found)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Publish sweeps and show them.

    Returns:
        0; 1 if, with --once, something did not arrive.

    Raises:
        ValueError: If there are no runs, Trackio is not installed, or the port is taken.
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
    stay_here(os.environ)
    from kn_sweeps.dashboards.publisher import Publisher

    with Publisher(_PATIENCE_S) as publisher:
        shown = Shown(chosen.sweeps, publisher, chosen.project)
        complete = shown.look()
        if chosen.once:
            return 0 if complete else 1
        address = _served(chosen.port, shown.project())
        say(f"dashboard: {address} (Ctrl-C ends it)")
        if not chosen.no_browser:
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(EVERY_S)
                shown.look(quiet=True)
        return 0


def _served(port: int | None, project: str | None) -> str:
    """Serve the page on this machine alone; its address, of a project as we have it.

    Raises:
        ValueError: If the port is taken or not ours to take.
    """
    import trackio

    try:
        # Its own words name an address that anyone could write to.
        with contextlib.redirect_stdout(io.StringIO()):
            _, address, *_ = trackio.show(
                host="127.0.0.1",
                server_port=port,
                share=False,
                open_browser=False,
                block_thread=False,
            )
    except OSError:
        asked = "no port from 7860 on is free" if port is None else f"port {port} is not free"
        raise ValueError(f"{asked} on 127.0.0.1; choose another: --port NUMBER") from None
    view = {"hide_empty_tabs": "true", "smoothing": "0"}
    return f"{address}?{urlencode({'project': project, **view} if project else view)}"


if __name__ == "__main__":
    sys.exit(main())
