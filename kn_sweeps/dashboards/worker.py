"""A process that publishes runs one after the other, so that whoever waits for it can end it.

    python -m kn_sweeps.dashboards.worker FOLDER

reads one JSON object a line (`Worker.ask`) and answers each with one line: `{"address": ...}`, or
`{"error": ...}` for a run that did not arrive. FOLDER is for what a dashboard's client stages.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from kn_sweeps.dashboards.place import NotPublishedError, Place, dashboard, stay_here
from kn_sweeps.records.files import held

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
    """The other end of such a process, which is started when it is needed."""

    def __init__(self, patience_s: float) -> None:
        """How long a run may take; an answer is waited for a little longer than that."""
        self._patience_s, self._limit_s = patience_s, 1.2 * patience_s + _START_S
        self._process: subprocess.Popen[str] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

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
        if self._process is not None and self._process.poll() is not None:
            self.close()
        process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            what = {"run": str(directory), "name": name, "jobs": sorted(jobs), "place": dict(place)}
            process.stdin.write(json.dumps(what | {"patience_s": self._patience_s}) + "\n")
            process.stdin.flush()
        line = _line(process.stdout, time.monotonic() + self._limit_s)
        if line:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                # A client that gave a run up may go on trying, and refuse to open it again.
                self.close()
            return answer
        late = line is None
        said = self._last_words()
        self.close()
        if late:
            return {"error": f"no answer within {self._limit_s:.0f} s"}
        return {"error": f"the publishing process ended{said}"}

    def close(self) -> None:
        """End the process, whatever it waits for, and what it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _started(self) -> subprocess.Popen[str]:
        self._folder = tempfile.TemporaryDirectory(
            prefix="kn-sweeps-publish-", ignore_cleanup_errors=True
        )
        with (Path(self._folder.name) / "stderr").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kn_sweeps.dashboards.worker", self._folder.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,  # Ctrl-C is for whoever waits
                env=_environment(),
            )
        return self._process

    def _last_words(self) -> str:
        assert self._folder is not None
        text = (Path(self._folder.name) / "stderr").read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        return next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")


def _environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in _OTHER_RUNS}
    stay_here(own)
    return own


def _line(stream: IO[str], until: float) -> str | None:
    """The next line; empty at the end of the stream, None where none comes in time."""
    # One line is asked for and one is answered: nothing waits in the stream's own buffer.
    ready, _, _ = select.select([stream], [], [], max(0.0, until - time.monotonic()))
    return stream.readline() if ready else None


def main() -> None:
    """Publish what is asked for on standard input until that ends."""
    folder = sys.argv[1]
    for name in ("TMPDIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_DIR"):
        os.environ[name] = folder
    tempfile.tempdir = None
    os.environ["WANDB_SILENT"] = "true"
    # What a client prints must not end up among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with suppress(BrokenPipeError):  # nobody waits any more
        for line in sys.stdin:
            answers.write(json.dumps(_answer(json.loads(line))) + "\n")
            answers.flush()
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


if __name__ == "__main__":
    main()
