"""What has become of every run of a sweep: the run directories, the launches and the queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kn_sweeps.config import CANNOT_CHANGE_ROWS
from kn_sweeps.records.files import is_held
from kn_sweeps.records.naming import headline
from kn_sweeps.records.run_directory import RunDirectory, runs_in
from kn_sweeps.records.status import FAILED, read_status
from kn_sweeps.sweeps import slurm
from kn_sweeps.sweeps.record import Launch, PlannedRun, forgotten, launches, place_of

WAITING, RUNNING, DONE, LOST = "waiting", "running", "done", "lost"
_LEFT = ("timed out", "preempted", "cancelled")
STATES = (RUNNING, WAITING, DONE, FAILED, *_LEFT, LOST)
"""`lost`: begun or submitted, not finished, and nobody is going to. The others say themselves."""


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
        idle: Whether it waits for a launch: it was never begun, and what was to do it has ended.
        reason: Why its task waits in the queue, in Slurm's word.
    """

    run: PlannedRun
    state: str
    launch: Launch
    task: int
    job: str | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    died: bool = False
    idle: bool = False
    reason: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether it is up to a new launch."""
        return self.idle or self.state not in (WAITING, RUNNING, DONE)


def states(sweep: Path, known: Sequence[Launch]) -> dict[str, RunState]:
    """The state of every run that was ever launched, by run id, in the order of the launches.

    A run is examined once, as part of the last launch that has it. One that was launched again
    under another id, because its data or weights have changed since, is left out unless it is done.

    Args:
        sweep: The sweep's directory.
        known: Its launches, oldest first.

    Raises:
        ValueError: If one of them went to Slurm and Slurm does not answer, or a lock or a status
            cannot be read.
    """
    # Before the queue is asked: what is submitted in between is in the queue by then.
    at_work = {launch.id: launch.is_at_work() for launch in known}
    unwanted = forgotten(sweep)
    last = {
        run.id: (run, launch, number)
        for launch in known
        for number, task in enumerate(launch.tasks)
        for run in task
        if launch.id > unwanted.get(run.id, "")
    }
    seen = {run.id: _Seen.of(sweep, run, launch) for run, launch, _ in last.values()}
    queued = _queued([launch for run, launch, _ in last.values() if not seen[run.id].done])
    works: dict[tuple[str, int], bool] = {}
    found: dict[str, RunState] = {}
    for run, launch, task in last.values():
        key = (launch.id, task)
        if key not in works and not seen[run.id].done:
            works[key] = at_work[launch.id] or is_held(launch.task_lock(task))
        place = queued.get(key)
        found[run.id] = _state(seen[run.id], (run, launch, task), place, works.get(key, False))
    return _without_replaced(found)


@dataclass(frozen=True)
class _Seen:
    """What a run's directory says.

    Attributes:
        status: Its status.json.
        busy: Whether a process of this machine, or of a shared file system's, holds it.
        done: Whether it is finished, by the launch or a later one where it was to run again.
        own: Whether the status is of the launch or a later one.
    """

    status: Mapping[str, Any]
    busy: bool
    done: bool
    own: bool

    @classmethod
    def of(cls, sweep: Path, run: PlannedRun, launch: Launch) -> _Seen:
        directory = RunDirectory(sweep / run.id)
        status = read_status(directory.path)
        # Whoever holds a run has said that it is running; only the lock tells whether it still is.
        busy = bool(status.get("state") == RUNNING or "damaged" in status) and directory.busy()
        done = not busy and directory.done(launch.id if run.config.get("rerun") else None)
        return cls(status, busy, done, str(status.get("launch", "")) >= launch.id)


def every_run(sweep: Path) -> dict[str, RunState]:
    """The state of every run of a sweep: those that were launched, then those begun without.

    Raises:
        ValueError: As `states`.
    """
    known = launches(sweep)
    found = states(sweep, known)
    # Those that were forgotten or replaced were launched too.
    launched = {run.id for launch in known for task in launch.tasks for run in task}
    for run in runs_in(sweep):
        if run.path.name not in launched and (one := _by_itself(run)) is not None:
            found[run.path.name] = one
    return found


def _by_itself(directory: RunDirectory) -> RunState | None:
    """The state of a run that was begun without a launch; None if its config tells nothing."""
    try:
        config = directory.config()
        run = PlannedRun(directory.path.name, headline(config), config)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    status = read_status(directory.path)
    stated = str(status.get("state", LOST))
    if (stated == RUNNING or "damaged" in status) and directory.busy():
        state = RUNNING
    elif directory.done():
        state = DONE
    else:
        state = LOST if stated in (RUNNING, DONE) else stated
    launch = Launch.none(directory.path.parent, run)
    return RunState(run, state, launch, 0, status=status, died=stated == RUNNING and state == LOST)


def _state(
    seen: _Seen,
    where: tuple[PlannedRun, Launch, int],
    place: slurm.Queued | None,
    at_work: bool,
) -> RunState:
    """The state of a run by its directory, its place in the queue and whether its task lives."""
    run, launch, task = where
    stated = seen.status.get("state")
    job = place.job if place else None

    def is_(state: str, **more: Any) -> RunState:
        return RunState(run, state, launch, task, job, seen.status, **more)

    there = place is not None and place.running and _job(seen.status) == place.job
    if seen.busy or (stated == RUNNING and there):
        return is_(RUNNING)
    if seen.done:
        return is_(DONE)
    if place is not None or at_work:
        # What was stopped goes on once its task is requeued; what failed does not.
        if seen.own and stated == FAILED:
            return is_(FAILED)
        return is_(WAITING, reason=place.reason if place else "")
    if stated == RUNNING:
        return is_(LOST, died=True)
    if seen.own and stated in (FAILED, *_LEFT):
        return is_(str(stated))
    submitted = launch.kind == "slurm" and launch.job_of(task) is not None
    return is_(LOST) if submitted or (seen.own and stated == DONE) else is_(WAITING, idle=True)


def _job(status: Mapping[str, Any]) -> str | None:
    job: str | None = status.get("where", {}).get("job")
    return job


def _queued(unfinished: Iterable[Launch]) -> dict[tuple[str, int], slurm.Queued]:
    """What is in the queue of some launches, by launch id and number of the task.

    Slurm is asked only if one of them went there.
    """
    wanted = {launch.id: launch for launch in unfinished if launch.kind == "slurm"}
    found = {}
    for item in slurm.queue(one.user for one in wanted.values()) if wanted else ():
        launch_id, array = place_of(item.name) or ("", 0)
        if launch_id in wanted and array < len(wanted[launch_id].arrays):
            found[launch_id, wanted[launch_id].arrays[array].first + item.index] = item
    return found


def _without_replaced(found: Mapping[str, RunState]) -> dict[str, RunState]:
    """Leave out what was launched again as another run: the same config, other data or weights."""
    by_name: dict[str, list[RunState]] = {}
    for one in found.values():
        by_name.setdefault(one.run.name, []).append(one)

    def replaced(one: RunState) -> bool:
        return one.unfinished and any(
            other.launch.id > one.launch.id and _rows_of(other.run) == _rows_of(one.run)
            for other in by_name[one.run.name]
        )

    return {name: one for name, one in found.items() if not replaced(one)}


def _rows_of(run: PlannedRun) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key not in CANNOT_CHANGE_ROWS}


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


def outlook(found: Iterable[RunState]) -> Outlook:
    """When a sweep will end if it goes on as it went: mean times of runs, shared by those running.

    Each time is the difference of two that one process noted: no two clocks are compared.
    """
    all_states = list(found)
    took = [_worked(s) for s in all_states if s.state == DONE and "began" in s.status]
    done = sum(s.state == DONE for s in all_states)
    running = [s for s in all_states if s.state == RUNNING]
    waiting = sum(s.state == WAITING and not s.idle for s in all_states)
    if not running and not waiting:
        return Outlook(0.0, done, len(all_states))
    mean = sum(took) / len(took) if took else None
    left = [_seconds_left(s, mean) for s in running]
    if not running or None in left or (waiting and mean is None):
        return Outlook(None, done, len(all_states))
    work = sum(x for x in left if x is not None) + waiting * (mean or 0.0)
    return Outlook(work / len(running), done, len(all_states))


def rate(state: RunState) -> float | None:
    """Cases a second of a run since its process took it up."""
    done = int(state.status.get("done", 0)) - int(state.status.get("done_before", 0))
    seconds = _worked(state)
    return done / seconds if done > 0 and seconds > 0 else None


def _worked(state: RunState) -> float:
    """Seconds from when its process took a run up to when it last noted something."""
    return float(state.status.get("updated", 0.0)) - float(state.status.get("began", 0.0))


def _seconds_left(state: RunState, mean: float | None) -> float | None:
    speed = rate(state)
    if speed is not None:
        return (int(state.status["total"]) - int(state.status["done"])) / speed
    return None if mean is None else max(0.0, mean - _worked(state))
