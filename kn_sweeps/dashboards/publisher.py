"""Bringing the runs of a sweep to a dashboard: what is new, several at a time, each bounded.

What arrived is remembered in the run's directory (`published.json`: by place, the fingerprint of
what was sent). A run is published under a lock of its own, so that several publishers of one
sweep share the work.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from kn_sweeps.dashboards.place import Place, dashboard
from kn_sweeps.dashboards.reading import fingerprint
from kn_sweeps.dashboards.worker import Worker
from kn_sweeps.records.files import about_files, held, write_json

MEMORY, LOCK = "published.json", ".publishing"
WORKERS = 4
_WORTH_A_WORKER = 2
"""So many runs are worth the seconds that another process takes to start."""
_HOPELESS = 2 * WORKERS
"""So many failures in a row say that it is not the runs."""


@dataclass(frozen=True)
class Candidate:
    """A run that may be published.

    Attributes:
        directory: The run's.
        name: What people call it.
        place: Where it goes.
    """

    directory: Path
    name: str
    place: Place


@dataclass(frozen=True)
class Result:
    """What became of a run: `sent`, `known` already, or `failed`, and why."""

    run: Candidate
    what: Literal["sent", "known", "failed"]
    why: str = ""


class Publisher:
    """Publishes runs to the W&B server that is used here, and to Trackio's store on this machine.

    A context: one process is kept from one `publish` to the next, as it takes a dashboard's client
    seconds to be imported.

    Attributes:
        patience_s: How long one run may take.
        workers: How many runs at a time, at most.
    """

    def __init__(self, patience_s: float, workers: int = WORKERS) -> None:
        """Start nothing yet."""
        self.patience_s, self.workers = patience_s, workers
        self._in_a_row, self._last_failure = 0, ""
        self._counting = threading.Lock()
        self._kept: list[Worker] = []

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the process that was kept."""
        while self._kept:
            self._kept.pop().close()

    def publish(
        self,
        runs: Sequence[Candidate],
        jobs: Collection[str] = (),
        told: Callable[[Result], None] = lambda _: None,
        again: Collection[Path] = (),
    ) -> list[Result]:
        """Bring runs up to date; gives what became of each, in their order.

        Args:
            runs: The runs.
            jobs: Jobs of the cluster that are running.
            told: Is told every result when it is there.
            again: Directories of runs that are sent though they are known.
        """
        self._in_a_row = 0
        found: dict[Path, Result] = {}
        waiting = []
        for run in runs:
            try:
                if run.directory in again or not self._known(run, jobs)[1]:
                    waiting.append(run)
            except (OSError, ValueError) as error:
                found[run.directory] = result = _failed(run, error)
                told(result)
        queue = iter(waiting)
        taking = threading.Lock()

        def work() -> None:
            with self._worker() as worker:
                while True:
                    with taking:
                        run = next(queue, None)
                    if run is None:
                        return
                    found[run.directory] = result = self._one(
                        run, worker, jobs, again=run.directory in again
                    )
                    told(result)

        count = min(self.workers, math.ceil(len(waiting) / _WORTH_A_WORKER))
        with ThreadPoolExecutor(max(count, 1)) as pool:
            for done in [pool.submit(work) for _ in range(count)]:
                done.result()
        return [found.get(run.directory, Result(run, "known")) for run in runs]

    @contextmanager
    def _worker(self) -> Iterator[Worker]:
        with self._counting:
            worker = self._kept.pop() if self._kept else Worker(self.patience_s)
        try:
            yield worker
        finally:
            with self._counting:
                spare = bool(self._kept)
                if not spare:
                    self._kept.append(worker)
            if spare:
                worker.close()

    def _one(self, run: Candidate, worker: Worker, jobs: Collection[str], *, again: bool) -> Result:
        with self._counting:
            if self._in_a_row >= _HOPELESS:
                return Result(run, "failed", f"not tried, as others failed: {self._last_failure}")
        try:
            with held(run.directory / LOCK, wait=True):
                # Asked again under the lock, and before anything is read: what changes while it
                # is sent is sent the next time.
                now, known = self._known(run, jobs)
                if known and not again:
                    return Result(run, "known")
                # A kill from here on leaves it unknown, whatever had been sent before.
                self._remember(run, None)
                answer = worker.ask(run.directory, run.name, jobs, asdict(run.place))
                if "address" in answer:
                    self._remember(run, now)
        except (OSError, ValueError) as error:
            return _failed(run, error)
        with self._counting:
            if "address" in answer:
                self._in_a_row = 0
                return Result(run, "sent")
            self._in_a_row += 1
            self._last_failure = answer["error"]
            return Result(run, "failed", answer["error"])

    def _known(self, run: Candidate, jobs: Collection[str]) -> tuple[str, bool]:
        """The fingerprint of what would be sent, and whether just that was, and is there."""
        place = asdict(run.place)
        now = fingerprint(run.directory, run.name, jobs, place["tags"], place["sample_rows"])
        sent = _memory(run.directory).get(_key(run), {}).get("fingerprint")
        known = sent == now and dashboard(run.place.where).holds(run.place, run.directory.name)
        return now, known

    def _remember(self, run: Candidate, sent: str | None) -> None:
        """What was sent; None while it is."""
        memory = _memory(run.directory)
        if memory.pop(_key(run), None) is None and sent is None:
            return
        if sent is not None:
            memory[_key(run)] = {"fingerprint": sent, "at": time.time()}
        write_json(run.directory / MEMORY, memory)


def _key(run: Candidate) -> str:
    """The place of a run, among all of the world."""
    return f"{dashboard(run.place.where).server()} {run.place.key}"


def _failed(run: Candidate, error: OSError | ValueError) -> Result:
    """A run whose directory cannot be read or written."""
    why = about_files(error) if isinstance(error, OSError) else str(error)
    return Result(run, "failed", why)


def _memory(directory: Path) -> dict[str, Any]:
    """What was sent where; empty where that cannot be read: then it is sent again."""
    try:
        found = json.loads((directory / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
