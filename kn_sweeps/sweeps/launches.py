"""What was launched: the plan of every launch of a sweep, frozen on disk.

    results/<sweep>/launches/<launch id>/
        launch.json   who launched what and how: every task's runs with their whole configs
        jobs.json     the cluster's ids of what was submitted, in order
        <job>*.out, <job>*.err, <job>*.pkl, ...   submitit's

A node reads its runs from launch.json, so nothing that changes after the launch changes them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

from kn_sweeps.files import held, is_held, write_json, write_text

FOLDER = "launches"
Kind = Literal["local", "processes", "slurm"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan.

    Attributes:
        id: Its run id.
        name: Its overrides, as people wrote them.
        config: Its whole config, resolved.
    """

    id: str
    name: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Array:
    """Consecutive tasks that are submitted as one job array.

    Attributes:
        first: Number of its first task.
        tasks: How many.
        parallel: How many of them may run at once.
        after: Index of the array that must have ended before; None for none.
    """

    first: int
    tasks: int
    parallel: int
    after: int | None = None


@dataclass(frozen=True)
class Launch:
    """One launch.

    Attributes:
        folder: Where its record is.
        kind: What executes its tasks.
        settings: That launcher's settings.
        options: The launch's own (`plan.LaunchConfig`).
        tasks: The runs of every task.
        arrays: How tasks are submitted; empty unless `kind` is slurm.
        where: The launching host.
        cwd: The working directory, for relative paths in configs.
    """

    folder: Path
    kind: Kind
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    tasks: tuple[tuple[PlannedRun, ...], ...]
    arrays: tuple[Array, ...]
    where: str
    cwd: str

    @property
    def id(self) -> str:
        """Its id, which sorts by time."""
        return self.folder.name

    @property
    def sweep(self) -> Path:
        """The sweep's directory."""
        return self.folder.parent.parent

    def launched_at(self) -> float:
        """When it was launched, in seconds since 1970."""
        return (self.folder / "launch.json").stat().st_mtime

    def job_name(self, array: int) -> str:
        """What the queue calls an array of it: known before it is submitted, unlike its number."""
        return f"{self.sweep.name}.{self.id}.{array}"

    def jobs(self) -> list[str]:
        """The cluster's ids of its arrays, in order, as far as they are submitted."""
        path = self.folder / "jobs.json"
        return list(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []

    def job_of(self, task: int) -> str | None:
        """The cluster's id of a task; None if it was not submitted."""
        for array, job in zip(self.arrays, self.jobs(), strict=False):
            if array.first <= task < array.first + array.tasks:
                return job if array.tasks == 1 else f"{job}_{task - array.first}"
        return None

    @contextmanager
    def at_work(self) -> Iterator[IO[str]]:
        """Mark this process, and those that inherit the open file, as seeing to the launch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / ".lock", wait=True) as lock:
            assert lock is not None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield lock

    def at_work_in(self) -> int | None:
        """The process that sees to it; None if there is none."""
        if not self.is_at_work():
            return None
        return int((self.folder / ".lock").read_text(encoding="utf-8") or 0) or None

    def is_at_work(self) -> bool:
        """Whether a process sees to it: it submits, or executes the tasks itself."""
        return is_held(self.folder / ".lock")

    def write(self) -> None:
        """Write the record."""
        facts = {
            "kind": self.kind,
            "settings": self.settings,
            "options": self.options,
            "where": self.where,
            "cwd": self.cwd,
            "arrays": [asdict(array) for array in self.arrays],
            "tasks": [[asdict(run) for run in task] for task in self.tasks],
        }
        # Not indented, and NaN stays what it is: the config is to come back as it was.
        write_text(self.folder / "launch.json", json.dumps(facts))

    def submitted(self, jobs: Sequence[str]) -> None:
        """Note the ids of what was submitted so far."""
        write_json(self.folder / "jobs.json", list(jobs))

    @classmethod
    def new(
        cls,
        sweep: Path,
        kind: Kind,
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
        tasks: Sequence[Sequence[PlannedRun]],
        arrays: Sequence[Array] = (),
    ) -> Launch:
        """A launch from here, not written yet."""
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        folder = sweep.absolute() / FOLDER / name
        packs = tuple(tuple(task) for task in tasks)
        where = socket.gethostname()
        how = (kind, dict(settings), dict(options))
        return cls(folder, *how, packs, tuple(arrays), where, os.getcwd())

    @classmethod
    def none(cls, sweep: Path, run: PlannedRun) -> Launch:
        """What stands for a launch of a run that was begun without one; it is never written."""
        nowhere = sweep.absolute() / FOLDER / "none"
        return cls(nowhere, "local", {}, {}, ((run,),), (), socket.gethostname(), os.getcwd())

    @classmethod
    def read(cls, folder: Path) -> Launch:
        """Read a record."""
        facts = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
        tasks = tuple(tuple(PlannedRun(**run) for run in task) for task in facts.pop("tasks"))
        arrays = tuple(Array(**array) for array in facts.pop("arrays"))
        return cls(folder=folder, tasks=tasks, arrays=arrays, **facts)


def launches(sweep: Path) -> list[Launch]:
    """All launches of a sweep, oldest first."""
    found = sorted((sweep.absolute() / FOLDER).glob("*/launch.json"))
    return [Launch.read(path.parent) for path in found]


@contextmanager
def planning(sweep: Path) -> Iterator[None]:
    """Be the only one to plan and submit runs of a sweep; others wait."""
    folder = sweep / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock", wait=True):
        yield
