"""How far a run is: `status.json` in its directory, kept current while it runs.

    state       running, done, failed, timed out, preempted, cancelled
    done total  cases
    within      how far those are that come next, in words; empty between them
    began       when this process took the run up, and `done_before`, what was there by then
    updated     when this was written (seconds since 1970, as all times)
    where       host, process, and the job of a cluster
    launch      the launch it was asked for by: it sorts by time (`launch_id`)
    error       of a failed run: the last line of its traceback, and the whole of it

A process that dies hard leaves `running` behind; whoever reads it must ask whether it is (see
`sweeps.states`).
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from kn_sweeps.progress.interruption import STOPPED, Interrupted
from kn_sweeps.records.history import note_step
from kn_sweeps.records.integrity import DamagedError, read_sealed, sealed, write_sealed
from kn_sweeps.records.run_directory import STATUS

LAUNCHES = "launches"
"""Folder of a sweep's launches, each named by its id."""
FAILED = "failed"
_STAMP, _DIGITS = "%Y%m%d-%H%M%S", 15


class Progress:
    """Writes one run's status."""

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        """Start with a record; see `reported`."""
        self._path, self._record = path, dict(record)

    def cases(self, done: int, total: int) -> None:
        """Tell how many cases are done."""
        before = self._record.get("done_before", done)
        note_step(self._path.parent, done, total)
        self.now(done=done, total=total, done_before=before, within="")

    def within(self, text: str) -> None:
        """Tell how far what is not done yet is."""
        self.now(within=text)

    def now(self, **facts: Any) -> None:
        """Replace some facts."""
        self._record |= {**facts, "updated": time.time()}
        write_sealed(self._path, self._record)

    def last(self, **facts: Any) -> None:
        """Replace some facts for good; on a full disk in the room that the record has already.

        Where even that fails the record is removed: none at all is better than one that says
        that the run goes on.
        """
        try:
            self.now(**facts)
        except OSError:
            short = {k: v for k, v in self._record.items() if k != "traceback"}
            try:
                with self._path.open("r+", encoding="utf-8") as file:
                    json.dump(sealed(short), file)
                    file.truncate()
            except OSError:
                self._path.unlink(missing_ok=True)


@contextmanager
def reported(directory: Path, launch: str) -> Iterator[Progress]:
    """Keep the status of the run in `directory`: running in this block, and how it is left."""
    about = {"state": "running", "began": time.time(), "where": here(), "launch": launch}
    progress = Progress(directory / STATUS, about)
    progress.now()
    try:
        yield progress
    except Interrupted as reason:
        progress.last(state=str(reason))
        raise
    except KeyboardInterrupt:
        progress.last(state=STOPPED)
        raise
    except BaseException as error:
        progress.last(**_failure(error))
        raise
    progress.now(state="done")


def failed(directory: Path, launch: str, error: BaseException) -> None:
    """Note that a run failed before it began; where it noted its own failure, nothing."""
    status = read_status(directory)
    if status.get("state") == FAILED and status.get("launch") == launch:
        return
    directory.mkdir(parents=True, exist_ok=True)
    about = {"where": here(), "launch": launch, "updated": time.time()}
    write_sealed(directory / STATUS, about | _failure(error))


def noted(directory: Path, **facts: Any) -> None:
    """Add some facts to the status of a run that was left."""
    write_sealed(directory / STATUS, {**read_status(directory), **facts})


def _failure(error: BaseException) -> dict[str, Any]:
    # What `reported` catches is being handled; its traceback is that of this very error.
    text = "".join(traceback.format_exception(error))
    last = traceback.format_exception_only(error)[-1].strip()
    return {"state": FAILED, "error": last, "traceback": text}


def read_status(directory: Path) -> dict[str, Any]:
    """A run's status.json; empty if there is none. Of a damaged one only `damaged`, what is wrong.

    Raises:
        OSError: If it cannot be read, by this user say.
    """
    try:
        return read_sealed(directory / STATUS)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except DamagedError as error:  # the next process that takes up the run replaces it
        return {"damaged": str(error)}


def launch_id(sweep: Path, after: str = "") -> str:
    """An id for a launch of a sweep that sorts after all there are, whatever the clocks say.

    Args:
        sweep: The sweep's directory.
        after: Another id it sorts after.
    """
    now = datetime.now(UTC)
    for name in (after, *(path.name for path in (sweep / LAUNCHES).glob("*-*-*"))):
        with suppress(ValueError):  # no id of ours
            before = datetime.strptime(name[:_DIGITS], _STAMP).replace(tzinfo=UTC)
            now = max(now, before + timedelta(seconds=1))
    return f"{now.strftime(_STAMP)}-{secrets.token_hex(3)}"


def here() -> dict[str, Any]:
    """This process, and the job it is part of."""
    return {"host": socket.gethostname(), "process": os.getpid(), "job": job_id()}


def job_id() -> str | None:
    """The id of the Slurm job this process is part of, `51_3` in an array; None outside one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{x}_ID") for x in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
