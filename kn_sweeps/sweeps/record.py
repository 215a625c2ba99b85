"""What was launched: the plan of every launch of a sweep, frozen on disk.

    results/<sweep>/launches/<launch id>/
        launch.json   who launched what and how: every task's runs with their whole configs
        jobs.json     the cluster's ids of what was submitted, in order
        <job>*.out, <job>*.err, <job>*.pkl, ...   submitit's

and results/<sweep>/launches/forgotten.json: failed runs that nobody wants to hear of any more.

A node reads its runs from launch.json, so nothing that changes after the launch changes them.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, Literal

from kn_sweeps.records.files import held, holder, is_held, write_json, write_text
from kn_sweeps.records.integrity import DamagedError, read_sealed, sealed, unless_damaged
from kn_sweeps.records.status import LAUNCHES, launch_id

LauncherKind = Literal["local", "processes", "slurm"]

_RECORD = "launch.json"


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
        user: The number of the user who launched it, whose jobs its arrays are.
    """

    folder: Path
    kind: LauncherKind
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    tasks: tuple[tuple[PlannedRun, ...], ...]
    arrays: tuple[Array, ...]
    where: str
    cwd: str
    user: int

    @property
    def id(self) -> str:
        """Its id, which sorts by time."""
        return self.folder.name

    @property
    def sweep(self) -> Path:
        """The sweep's directory."""
        return self.folder.parent.parent

    @property
    def runs(self) -> tuple[PlannedRun, ...]:
        """The runs of all tasks."""
        return tuple(run for task in self.tasks for run in task)

    def job_name(self, array: int) -> str:
        """What the queue calls an array of it: known before it is submitted, unlike its number."""
        return f"{self.sweep.name}.{self.id}.{array}"

    def jobs(self) -> list[str]:
        """The cluster's ids of its arrays, in order, as far as they are submitted and known."""
        try:
            found = json.loads((self.folder / "jobs.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return []
        return [str(job) for job in found] if isinstance(found, list) else []

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
            yield lock

    def at_work_in(self) -> tuple[int, str] | None:
        """The process that sees to it, and its host; None if there is none."""
        return holder(self.folder / ".lock")

    def is_at_work(self) -> bool:
        """Whether a process sees to it: it submits, or executes the tasks itself."""
        return is_held(self.folder / ".lock")

    def task_lock(self, task: int) -> Path:
        """What a process of this machine holds as long as it does a task."""
        return self.folder / f"task-{task}.lock"

    def write(self) -> None:
        """Write the record."""
        facts = {
            "kind": self.kind,
            "settings": self.settings,
            "options": self.options,
            "where": self.where,
            "cwd": self.cwd,
            "user": self.user,
            "arrays": [asdict(array) for array in self.arrays],
            "tasks": [[asdict(run) for run in task] for task in self.tasks],
        }
        # Not indented, and NaN stays what it is: the config is to come back as it was.
        write_text(self.folder / _RECORD, json.dumps(sealed(facts)))

    def submitted(self, jobs: Sequence[str]) -> None:
        """Note the ids of what was submitted so far."""
        write_json(self.folder / "jobs.json", list(jobs))

    @classmethod
    def new(
        cls,
        sweep: Path,
        kind: LauncherKind,
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
        tasks: Sequence[Sequence[PlannedRun]],
        arrays: Sequence[Array] = (),
        after: str = "",
    ) -> Launch:
        """A launch from here, not written yet, whose id sorts after the others' and `after`."""
        folder = sweep.absolute() / LAUNCHES / launch_id(sweep, after)
        packs = tuple(tuple(task) for task in tasks)
        where = socket.gethostname()
        how = (kind, dict(settings), dict(options))
        return cls(folder, *how, packs, tuple(arrays), where, os.getcwd(), os.getuid())

    @classmethod
    def none(cls, sweep: Path, run: PlannedRun) -> Launch:
        """What stands for a launch of a run that was begun without one; it is never written."""
        nowhere = sweep.absolute() / LAUNCHES / "none"
        where = socket.gethostname()
        return cls(nowhere, "local", {}, {}, ((run,),), (), where, os.getcwd(), os.getuid())

    @classmethod
    def read(cls, folder: Path) -> Launch:
        """Read a record; one that this process has read is not read again until it changes.

        Raises:
            DamagedError: If it is not what was written.
        """
        about = (folder / _RECORD).stat()
        return _read(folder, (about.st_ino, about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=256)
def _read(folder: Path, _stamp: tuple[int, int, int]) -> Launch:
    """Read a record as it is at the time of a stamp."""
    path = folder / _RECORD
    facts = {"user": os.getuid()} | read_sealed(path)
    try:
        tasks = tuple(tuple(PlannedRun(**run) for run in task) for task in facts.pop("tasks"))
        arrays = tuple(Array(**array) for array in facts.pop("arrays"))
        return Launch(folder=folder, tasks=tasks, arrays=arrays, **facts)
    except (KeyError, TypeError) as error:
        raise DamagedError(path, f"it is no launch's record ({error})") from error


def launches(sweep: Path) -> list[Launch]:
    """All launches of a sweep, oldest first; one whose record is damaged is left out."""
    found = sorted((sweep.absolute() / LAUNCHES).glob(f"*/{_RECORD}"))
    then = "what it launched is not known any more: launch it again"
    every = (unless_damaged(partial(Launch.read, path.parent), then) for path in found)
    return [one for one in every if one is not None]


def place_of(job_name: str) -> tuple[str, int] | None:
    """The launch's id and the array that a name in the queue stands for; None for another's."""
    # From its end: what a sweep is called is up to people, and Slurm may trim it.
    parts = job_name.rsplit(".", 2)
    return (parts[-2], int(parts[-1])) if len(parts) == 3 and parts[-1].isdigit() else None


def forgotten(sweep: Path) -> dict[str, str]:
    """What nobody wants to hear of any more: run id to the last launch that is forgotten."""
    path = sweep / LAUNCHES / "forgotten.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def forget_runs(sweep: Path, runs: Sequence[str]) -> None:
    """Forget some runs as they were launched so far."""
    if runs:
        last = launches(sweep)[-1].id
        path = sweep / LAUNCHES / "forgotten.json"
        write_json(path, forgotten(sweep) | dict.fromkeys(runs, last))


@contextmanager
def planning(sweep: Path) -> Iterator[None]:
    """Be the only one to plan and submit runs of a sweep; others wait."""
    folder = sweep / LAUNCHES
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / ".lock", wait=True):
        yield
