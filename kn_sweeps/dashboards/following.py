"""Publishing runs again and again while they are computed.

A process beside the one that computes does it (`tracker.mode=online`): whatever becomes of it or
of the server, runs are computed as without it, and `kn-sweeps sync` sends later what is missing.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kn_sweeps.dashboards.candidates import Sweep
    from kn_sweeps.dashboards.publisher import Publisher, Result

log = logging.getLogger(__name__)
EVERY_S = 10.0
"""How often runs that are followed are looked at."""
_HEARTBEAT_S = 120.0
"""A run that is silent for some minutes counts as crashed on W&B."""
LINGER_S = 10.0
"""So long a process that has computed everything waits for what is still being sent."""
_PATIENCE_S, _WORKERS = 30.0, 2


class Following:
    """Publishes a sweep's runs, and says what went wrong where it is something new.

    Attributes:
        counts: How many runs were sent, known, or failed when they were last looked at.
    """

    def __init__(self, sweep: Sweep, publisher: Publisher, said: Callable[[str], None]) -> None:
        """Follow a sweep; `said` is told what went wrong, a line each."""
        self._sweep, self._publisher, self._said = sweep, publisher, said
        self._reasons: dict[Path, str] = {}
        self._sent: dict[Path, float] = {}
        self.counts: Counter[str] = Counter()

    def look(self, only: Callable[[Path], bool] = lambda _: True) -> bool:
        """Publish what is new; gives whether all is there.

        Args:
            only: Which run directories.
        """
        jobs = self._sweep.jobs()
        found, broken = self._sweep.candidates()
        chosen = [run for run in found if only(run.directory)]
        silent = [run.directory for run in chosen if self._is_silent(run.directory, jobs)]
        results = self._publisher.publish(chosen, jobs, self._told, silent)
        for path, why in broken.items():
            if only(path):
                self._failed(path, path.name, why)
        self.counts = Counter(result.what for result in results)
        return not self.counts["failed"] and not any(only(path) for path in broken)

    def _is_silent(self, directory: Path, jobs: set[str]) -> bool:
        from kn_sweeps.dashboards.reading import state_of

        sent = self._sent.get(directory)
        if sent is None or time.monotonic() - sent < _HEARTBEAT_S:
            return False
        return state_of(directory, jobs) == "running"

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


class _Beside(NamedTuple):
    """The process that follows the runs of a sweep that this process computes."""

    process: subprocess.Popen[str]
    title: str
    linger_s: float


_beside: dict[Path, _Beside] = {}


def follow(run: Path, title: str, linger_s: float = LINGER_S) -> None:
    """Have a run directory published from now on, by a process beside this one.

    Returns at once, and fails in no case: what cannot be sent now can be sent later.

    Args:
        run: The directory.
        title: What its dashboard is called in warnings.
        linger_s: How long the end of this process may wait for what is still being sent.
    """
    run = run.absolute()
    try:
        process = (_beside.get(run.parent) or _start(run.parent, title, linger_s)).process
        assert process.stdin is not None
        process.stdin.write(f"{run}\n")
        process.stdin.flush()
    except OSError as error:
        # It said why itself, unless it could not even be started.
        log.debug("not followed: %s", error)


def end() -> None:
    """Let what is being sent arrive, as long as it may. The end of a process does it too."""
    began = time.monotonic()
    for sweep, (process, title, linger_s) in _beside.items():
        until = began + linger_s
        assert process.stdin is not None
        try:
            process.stdin.close()
            process.wait(max(0.0, until - time.monotonic()))
        except (OSError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            log.warning("%s: not everything has arrived; %s", title, _later(sweep))
    _beside.clear()


def _start(sweep: Path, title: str, linger_s: float) -> _Beside:
    if not _beside:
        atexit.register(end)
    process = subprocess.Popen(
        [sys.executable, "-m", "kn_sweeps.dashboards.following", str(sweep), title],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the one that computes
    )
    _beside[sweep] = _Beside(process, title, linger_s)
    return _beside[sweep]


def _later(sweep: Path) -> str:
    shown = os.path.relpath(sweep)
    return f"`kn-sweeps sync {sweep if shown.startswith('..') else shown}` sends it later"


def main() -> None:
    """Publish the run directories that standard input names, until it ends and all are there."""
    from kn_sweeps.dashboards.candidates import Sweep
    from kn_sweeps.dashboards.publisher import Publisher

    logging.basicConfig(format="warning: %(message)s", stream=sys.stderr)
    folder, title = Path(sys.argv[1]), sys.argv[2]
    runs: set[Path] = set()
    more = threading.Event()
    warned = False

    def listen() -> None:
        for line in sys.stdin:
            runs.add(Path(line.rstrip("\n")))
        more.set()

    def warn(why: str) -> None:
        nonlocal warned
        if not warned:
            log.warning("%s: %s. Runs are computed all the same; %s", title, why, _later(folder))
        warned = True

    threading.Thread(target=listen, daemon=True).start()
    complete = True
    with Publisher(_PATIENCE_S, _WORKERS) as publisher:
        following = Following(Sweep(folder), publisher, warn)
        while True:
            over = more.is_set()  # asked before: what ends in between is published below
            if over and not complete:
                return  # that was told, and nobody is to wait for it
            complete = following.look(lambda run: run.absolute() in runs)
            if over:
                return
            more.wait(EVERY_S)


if __name__ == "__main__":
    main()
