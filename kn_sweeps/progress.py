"""How far a run is: `status.json` in its directory, kept current while it runs.

    state       running, done, failed, timed out, preempted, cancelled
    done total  cases
    began       when this process took the run up, and `done_before`, what was there by then
    updated     when this was written (seconds since 1970, as all times)
    where       host, process, and the job of a cluster
    error       of a failed run: the last line of its traceback, and the whole of it

A process that dies hard leaves `running` behind; whoever reads it must ask whether it is (see
`sweeps.states`).
"""

from __future__ import annotations

import json
import os
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kn_sweeps.files import write_json
from kn_sweeps.history import note_step
from kn_sweeps.interruption import STOPPED, Interrupted

STATUS = "status.json"


class Progress:
    """Writes one run's status."""

    def __init__(self, path: Path, record: Mapping[str, Any]) -> None:
        """Start with a record; see `reported`."""
        self._path, self._record = path, dict(record)

    def cases(self, done: int, total: int) -> None:
        """Tell how many cases are done."""
        before = self._record.get("done_before", done)
        note_step(self._path.parent, done, total)
        self.now(done=done, total=total, done_before=before)

    def now(self, **facts: Any) -> None:
        """Replace some facts."""
        self._record |= {**facts, "updated": time.time()}
        write_json(self._path, self._record)

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
                    json.dump(short, file)
                    file.truncate()
            except OSError:
                self._path.unlink(missing_ok=True)


@contextmanager
def reported(directory: Path) -> Iterator[Progress]:
    """Keep the status of the run in `directory`: running in this block, and how it is left."""
    about = {"state": "running", "began": time.time(), "where": here()}
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
        last = traceback.format_exception_only(error)[-1].strip()
        progress.last(state="failed", error=last, traceback=traceback.format_exc())
        raise
    progress.now(state="done")


def here() -> dict[str, Any]:
    """This process, and the job it is part of."""
    return {"host": socket.gethostname(), "process": os.getpid(), "job": job_id()}


def job_id() -> str | None:
    """The id of the Slurm job this process is part of, `51_3` in an array; None outside one."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{x}_ID") for x in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
