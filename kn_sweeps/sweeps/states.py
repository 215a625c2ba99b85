"""What has become of every run of a sweep: the run directories, the launches and the queue."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kn_sweeps.naming import headline
from kn_sweeps.progress import STATUS
from kn_sweeps.store import RunDirectory
from kn_sweeps.sweeps import slurm
from kn_sweeps.sweeps.launches import Launch, PlannedRun, launches

WAITING, RUNNING, DONE, FAILED, LOST = "waiting", "running", "done", "failed", "lost"
STATES = (RUNNING, WAITING, DONE, FAILED, "timed out", "preempted", "cancelled", LOST)
"""`lost`: launched, not finished, and nobody is going to. The others say themselves."""


@dataclass(frozen=True)
class RunState:
    """What has become of one run.

    Attributes:
        run: The run.
        state: One of `STATES`.
        launch: The last launch it was part of.
        task: The number of its task there.
        job: What the queue calls that task, while it is there.
        status: Its own status.json, if it has one.
        died: Whether it was running when its process died hard.
    """

    run: PlannedRun
    state: str
    launch: Launch
    task: int
    job: str | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    died: bool = False

    @property
    def unfinished(self) -> bool:
        """Whether it is up to a new launch."""
        return self.state not in (WAITING, RUNNING, DONE)


def read_status(directory: Path) -> dict[str, Any]:
    """A run's status.json; empty if there is none."""
    try:
        found: dict[str, Any] = json.loads((directory / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def states(sweep: Path, known: Sequence[Launch]) -> dict[str, RunState]:
    """The state of every run that was ever launched, by run id, in the order of the launches.

    Args:
        sweep: The sweep's directory.
        known: Its launches, oldest first.

    Raises:
        ValueError: If one of them went to Slurm and Slurm does not answer.
    """
    # Before the queue is asked: what is submitted in between is in the queue by then.
    at_work = {launch.id: launch.is_at_work() for launch in known}
    queued = _queued(sweep, known)
    found: dict[str, RunState] = {}
    for launch in known:
        for number, task in enumerate(launch.tasks):
            place = queued.get((launch.id, number))
            for run in task:
                found[run.id] = _state(sweep, run, launch, number, place, at_work[launch.id])
    return found


def every_run(sweep: Path) -> dict[str, RunState]:
    """The state of every run of a sweep: those that were launched, then those begun without.

    Raises:
        ValueError: As `states`.
    """
    found = states(sweep, launches(sweep))
    for path in sorted(sweep.glob("*/config.yaml")):
        if path.parent.name not in found and (one := _by_itself(path.parent)) is not None:
            found[path.parent.name] = one
    return found


def _by_itself(directory: Path) -> RunState | None:
    """The state of a run that was begun without a launch; None if its config tells nothing."""
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
        run = PlannedRun(directory.name, headline(config), config)
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return None
    own, status = RunDirectory(directory), read_status(directory)
    stated = str(status.get("state", LOST))
    state = LOST if stated in (RUNNING, DONE) else stated
    state = RUNNING if own.busy() else DONE if own.done() else state
    launch = Launch.none(directory.parent, run)
    return RunState(run, state, launch, 0, status=status, died=stated == RUNNING and state == LOST)


def _state(
    sweep: Path,
    run: PlannedRun,
    launch: Launch,
    task: int,
    place: slurm.Queued | None,
    at_work: bool,
) -> RunState:
    directory = RunDirectory(sweep / run.id)
    status = read_status(directory.path)
    job = place.job if place else None
    stated = str(status.get("state", LOST))

    def is_(state: str, *, died: bool = False) -> RunState:
        return RunState(run, state, launch, task, job, status, died)

    if directory.busy() or (stated == RUNNING and job and _job(status) == job and place.running):  # type: ignore[union-attr]
        return is_(RUNNING)
    # A run that is asked for again counts as done once it is younger than the launch.
    if directory.done(since=launch.launched_at() if run.config.get("rerun") else 0.0):
        return is_(DONE)
    own = _is_of(status, launch)
    if place is not None or at_work:
        # What was stopped goes on once its task is requeued; what failed does not.
        return is_(stated if own and stated == FAILED else WAITING)
    if stated == RUNNING:
        return is_(LOST, died=True)
    return is_(stated if own and stated != DONE else LOST)


def _is_of(status: Mapping[str, Any], launch: Launch) -> bool:
    """Whether a status is of this launch and not of an earlier one."""
    return float(status.get("updated", 0.0)) >= launch.launched_at()


def _job(status: Mapping[str, Any]) -> str | None:
    job: str | None = status.get("where", {}).get("job")
    return job


def _queued(sweep: Path, known: Iterable[Launch]) -> dict[tuple[str, int], slurm.Queued]:
    """What is in the queue, by launch id and number of the task.

    Slurm is asked only if a launch has something left that could be there.
    """
    names = {
        launch.job_name(n): (launch.id, array.first)
        for launch in known
        if launch.kind == "slurm" and not _all_done(sweep, launch)
        for n, array in enumerate(launch.arrays)
    }
    if not names:
        return {}
    found = {}
    for item in slurm.queue():
        if item.name in names:
            launch_id, first = names[item.name]
            found[launch_id, first + item.index] = item
    return found


def _all_done(sweep: Path, launch: Launch) -> bool:
    since = launch.launched_at()
    return all(
        RunDirectory(sweep / run.id).done(since if run.config.get("rerun") else 0.0)
        for task in launch.tasks
        for run in task
    )


@dataclass(frozen=True)
class Outlook:
    """How far a sweep is.

    Attributes:
        seconds_left: Expected; None while nothing tells.
        runs_done: Finished runs.
        runs: All runs.
    """

    seconds_left: float | None
    runs_done: int
    runs: int


def outlook(found: Iterable[RunState], now: float | None = None) -> Outlook:
    """When a sweep will end if it goes on as it went: mean times of runs, shared by those running.

    Args:
        found: The states of its runs.
        now: Seconds since 1970; None for the clock.
    """
    now = time.time() if now is None else now
    all_states = list(found)
    took = [
        float(s.status["updated"]) - float(s.status["began"])
        for s in all_states
        if s.state == DONE and "began" in s.status
    ]
    done = sum(s.state == DONE for s in all_states)
    running = [s for s in all_states if s.state == RUNNING]
    waiting = sum(s.state == WAITING for s in all_states)
    if not running and not waiting:
        return Outlook(0.0, done, len(all_states))
    mean = sum(took) / len(took) if took else None
    left = [_seconds_left(s, mean, now) for s in running]
    if not running or None in left or (waiting and mean is None):
        return Outlook(None, done, len(all_states))
    work = sum(x for x in left if x is not None) + waiting * (mean or 0.0)
    return Outlook(work / len(running), done, len(all_states))


def rate(state: RunState) -> float | None:
    """Cases a second of a run since its process took it up."""
    status = state.status
    done = int(status.get("done", 0)) - int(status.get("done_before", 0))
    seconds = float(status.get("updated", 0.0)) - float(status.get("began", 0.0))
    return done / seconds if done > 0 and seconds > 0 else None


def _seconds_left(state: RunState, mean: float | None, now: float) -> float | None:
    speed = rate(state)
    if speed is not None:
        left = int(state.status["total"]) - int(state.status["done"])
        return max(0.0, left / speed - (now - float(state.status["updated"])))
    if mean is None:
        return None
    return max(0.0, mean - (now - float(state.status.get("began", now))))
