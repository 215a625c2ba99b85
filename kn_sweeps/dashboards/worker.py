"""A process that publishes runs one after the other, so that whoever waits for it can end it.

All workers of a program are forks of one process that has imported what they need. One is asked
with `Worker.ask`, and answers `{"address": ...}`, or `{"error": ...}`.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kn_sweeps.dashboards.place import NotPublishedError, Place, dashboard, stay_here
from kn_sweeps.records.files import held

_FORKS = multiprocessing.get_context("forkserver")
# Trackio reads its variables while it is imported: a worker has its own.
_FORKS.set_forkserver_preload([f"kn_sweeps.dashboards.{one}" for one in ("reading", "wandb")])
_START_S = 20.0
"""A process that imports its client on a busy machine may take so long to start."""
_OTHER_RUNS = {
    f"WANDB_{name}"
    for name in (
        *("MODE", "DISABLED", "RUN_ID", "RUN_GROUP", "NAME", "NOTES", "TAGS", "RESUME"),
        *("JOB_TYPE", "SWEEP_ID", "PROJECT", "DIR", "SERVICE"),
    )
}
"""Variables that are about some other run of whoever started this process."""
_LOCK = ".publishing.worker"
"""Whoever asked may be killed, and let go of the run, while the worker is still at it."""


class Worker:
    """The other end of such a process: starts it when it is needed, and ends it with the block."""

    def __init__(self, patience_s: float) -> None:
        """How long a run may take; an answer is waited for a little longer than that."""
        self._patience_s, self._limit_s = patience_s, 1.2 * patience_s + _START_S
        self._process: BaseProcess | None = None
        self._channel: Connection | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        """Start nothing yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the process."""
        self.end()

    def ask(
        self, directory: Path, name: str, jobs: Collection[str], place: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Have one run published.

        Args:
            directory: The run's.
            name: What people call it.
            jobs: Jobs of the cluster that are running.
            place: The fields of where it goes.

        Returns:
            The answer; an `error` too where the process died or took too long, which ends it.
        """
        channel = self._channel or self._started()
        what = {"run": str(directory), "name": name, "jobs": sorted(jobs), "place": dict(place)}
        try:
            channel.send(what | {"patience_s": self._patience_s})
            if not channel.poll(self._limit_s):
                self.end()
                return {"error": f"no answer within {self._limit_s:.0f} s"}
            answer: dict[str, Any] = channel.recv()
        except (EOFError, ConnectionError):
            said = self._last_words()
            self.end()
            return {"error": f"the publishing process ended{said}"}
        if "error" in answer:
            # A client that gave a run up may go on trying, and refuse to open it again.
            self.end()
        return answer

    def end(self) -> None:
        """End the process, whatever it waits for, and what it started."""
        if self._process is not None:
            assert self._process.pid is not None
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()  # it may not have had the time to lead a group
            self._process.join()
            self._process = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _started(self) -> Connection:
        self._folder = tempfile.TemporaryDirectory(
            prefix="kn-sweeps-publish-", ignore_cleanup_errors=True
        )
        self._channel, there = _FORKS.Pipe()
        told = (there, self._folder.name, _environment())
        self._process = _FORKS.Process(target=_serve, args=told, daemon=True)
        self._process.start()
        there.close()
        return self._channel

    def _last_words(self) -> str:
        assert self._folder is not None
        text = (Path(self._folder.name) / "stderr").read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in _OTHER_RUNS}
    stay_here(own)
    return own


def _serve(channel: Connection, folder: str, environment: Mapping[str, str]) -> None:
    """Publish what is asked for until nobody waits any more.

    Args:
        channel: Asks, and is answered.
        folder: For what a dashboard's client stages.
        environment: Its variables; those that it was forked with are of the first of its kind.
    """
    os.setsid()  # Ctrl-C is for whoever waits
    os.environ.clear()
    os.environ.update(environment)
    for name in ("TMPDIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_DIR"):
        os.environ[name] = folder
    tempfile.tempdir = None
    os.environ["WANDB_SILENT"] = "true"
    with (Path(folder) / "stderr").open("w") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    with suppress(EOFError, ConnectionError):
        while True:
            channel.send(_answer(channel.recv()))
    shutil.rmtree(folder, ignore_errors=True)


def _answer(what: Mapping[str, Any]) -> dict[str, Any]:
    from kn_sweeps.dashboards.reading import read_published

    place = Place(**{**what["place"], "tags": tuple(what["place"]["tags"])})
    path = Path(what["run"])
    try:
        with held(path / _LOCK, wait=True):
            run = read_published(path, what["name"], place.sample_rows, what["jobs"])
            return {"address": dashboard(place.where).publish(run, place, what["patience_s"])}
    except (NotPublishedError, ValueError, OSError) as error:
        return {"error": str(error)}
    except Exception as error:  # one run's surprise is not another's
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
