"""What a launch would do: which runs are left, how they are packed into tasks and job arrays."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kn_sweeps.config import (
    metric_hashes,
    shown_otherwise,
)
from kn_sweeps.records.integrity import DamagedError
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.records.status import FAILED
from kn_sweeps.sweeps.named_runs import named_runs
from kn_sweeps.sweeps.record import Array, PlannedRun, launches
from kn_sweeps.sweeps.states import RunState, states

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How runs are launched: the keys of the root config that are no run's.

    Attributes:
        dry_run: Print the plan only.
        wait: Stay until everything is over.
        shards: Split every run into this many, which `analysis` joins again.
        runs_per_task: Runs that one task does one after the other; null for as many as it takes
            for all tasks to run at once.
        pack_by: Runs of one task agree in these keys of the config.
        objective: The metric that a run returns to the sweeper, negated where a `-` stands before
            it; or several. Null where the sweeper does not ask.
        trust_writers: Launch though others may write to the results folder, and so run code as you.
    """

    dry_run: bool = False
    wait: bool = False
    shards: int = 1
    runs_per_task: int | None = None
    pack_by: tuple[str, ...] = ("model", "dtype")
    objective: str | tuple[str, ...] | None = None
    trust_writers: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if self.shards < 1:
            raise ValueError(f"shards must be at least 1, got {self.shards}")
        if self.runs_per_task is not None and self.runs_per_task < 1:
            raise ValueError(f"runs_per_task must be at least 1, or null; got {self.runs_per_task}")
        if self.objective is not None and self.shards > 1:
            raise ValueError("an objective is that of a whole run: leave shards out")


LAUNCH_KEYS = tuple(field.name for field in fields(LaunchConfig))


@dataclass(frozen=True)
class Skipped:
    """A run that is not launched, and why."""

    run: PlannedRun
    why: str


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch would do.

    Attributes:
        sweep: The sweep's directory.
        asked: Every run that was asked for, in that order; equal ones again.
        tasks: The runs to do, packed.
        arrays: How tasks are submitted.
        skipped: What is not launched.
        rescored: Finished runs that lack a metric or have another tracker than is asked for.
        begun: How many of the runs to do go on where they stopped.
    """

    sweep: Path
    asked: tuple[PlannedRun, ...]
    tasks: tuple[tuple[PlannedRun, ...], ...]
    arrays: tuple[Array, ...]
    skipped: tuple[Skipped, ...]
    rescored: tuple[PlannedRun, ...]
    begun: int = 0

    @property
    def runs(self) -> list[PlannedRun]:
        """The runs to do."""
        return [run for task in self.tasks for run in task]

    def lines(self, *, whole: bool) -> Iterator[str]:
        """Text for people.

        Args:
            whole: Every run; otherwise the counts only.
        """
        why = Counter(skipped.why.split(" (")[0] for skipped in self.skipped)
        counts = [f"{len(self.runs)} to do", *(f"{n} {reason}" for reason, n in why.items())]
        if self.begun:
            counts[0] += f" ({self.begun} of them go on where they stopped)"
        if self.rescored:
            counts.append(f"{len(self.rescored)} to get new metrics or another tracker")
        total = len(self.runs) + len(self.skipped)
        yield f"sweep {self.sweep.name}: {_many(total, 'run')}: {', '.join(counts)}"
        if self.arrays:
            yield (
                f"{_many(len(self.tasks), 'task')} in {_many(len(self.arrays), 'job array')}: "
                + ", ".join(f"{a.tasks} (at most {a.parallel} at a time)" for a in self.arrays)
            )
        if not whole:
            return
        for number, task in enumerate(self.tasks):
            yield f"task {number}: {_many(len(task), 'run')}"
            yield from (f"  {run.id}  {run.name}" for run in task)
        for skipped in self.skipped:
            yield f"skipped {skipped.run.id}  {skipped.run.name}: {skipped.why}"


def plan(
    composed: Sequence[tuple[str, Mapping[str, Any]]],
    options: LaunchConfig,
    sweep: Path,
    *,
    at_once: int | None,
    max_array: int | None,
) -> LaunchPlan:
    """Decide what to do about some composed configs.

    Args:
        composed: Overrides, and the config they compose to, resolved, of every run.
        options: How to launch.
        sweep: The sweep's directory.
        at_once: How many tasks can run at once; None for one task after the other.
        max_array: How many tasks a job array can have; None for no arrays.

    Raises:
        ValueError: If a config is not valid; nothing is launched then.
    """
    runs = named_runs(composed, options.shards, sweep, dry_run=options.dry_run)
    known = states(sweep, launches(sweep))
    todo: list[PlannedRun] = []
    skipped: list[Skipped] = []
    rescored: list[PlannedRun] = []
    seen: set[str] = set()
    for run in runs:
        twice = run.id in seen
        why = "the same as another" if twice else _skip(sweep, run, known.get(run.id), options)
        seen.add(run.id)
        if why is None:
            todo.append(run)
            continue
        skipped.append(Skipped(run, why))
        if why == _DONE and (_lacks_metrics(sweep, run) or _shown_otherwise(sweep, run)):
            rescored.append(run)
    died = _died_hard(known)
    alone = [run for run in todo if run.id in died]
    # What failed before goes last, where it harms no other.
    again = {name for name, state in known.items() if state.state == FAILED}
    rest = sorted((run for run in todo if run.id not in died), key=lambda run: run.id in again)
    size = options.runs_per_task or (-(-len(rest) // at_once) if at_once else len(rest))
    tasks = [*packed(rest, max(1, size), options.pack_by), *((run,) for run in alone)]
    return LaunchPlan(
        sweep,
        tuple(runs),
        tuple(tasks),
        tuple(arrays(len(tasks), max_array, at_once or 1)) if max_array else (),
        tuple(skipped),
        tuple(rescored),
        sum(RunDirectory(sweep / run.id).chunks.any() for run in todo if not run.config["rerun"]),
    )


_DONE = "done"


def _skip(
    sweep: Path, run: PlannedRun, state: RunState | None, options: LaunchConfig
) -> str | None:
    """Why a run is not launched; None if it is."""
    if state is not None and not state.unfinished and state.state != _DONE:
        held = f", {state.reason}" if state.reason else ""
        return f"{state.state} ({state.job or state.launch.id}{held})"
    directory = RunDirectory(sweep / run.id)
    if directory.busy():
        return "running"
    if run.config["rerun"] or not directory.done():
        return None
    return _DONE if directory.whole(thorough=False, aside=not options.dry_run) else None


def _shown_otherwise(sweep: Path, run: PlannedRun) -> bool:
    """Whether a finished run is to have another tracker, or its config is to be written again."""
    try:
        before = RunDirectory(sweep / run.id).config()
    except (DamagedError, FileNotFoundError):
        return True
    return shown_otherwise(before, run.config)


def _lacks_metrics(sweep: Path, run: PlannedRun) -> bool:
    known = RunDirectory(sweep / run.id).summary()["metric_configs"]
    return any(known.get(name) != wanted for name, wanted in metric_hashes(run.config).items())


def _died_hard(known: Mapping[str, RunState]) -> set[str]:
    """The unfinished runs of tasks whose process died hard: any of them may have killed it."""
    dead = {(s.launch.id, s.task) for s in known.values() if s.died}
    return {name for name, s in known.items() if s.unfinished and (s.launch.id, s.task) in dead}


def packed(
    runs: Sequence[PlannedRun], size: int, pack_by: Sequence[str]
) -> list[tuple[PlannedRun, ...]]:
    """Pack runs that agree in some keys into tasks of at most `size`, about equally large.

    Raises:
        ValueError: If a key does not exist.
    """
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        unknown = [key for key in pack_by if key not in run.config]
        if unknown:
            raise ValueError(
                f"pack_by names {', '.join(unknown)}; choose from {', '.join(run.config)}"
            )
        key = json.dumps([run.config[key] for key in pack_by], sort_keys=True)
        groups.setdefault(key, []).append(run)
    tasks = []
    for group in groups.values():
        count = -(-len(group) // size)
        cuts = [len(group) * n // count for n in range(count + 1)]
        tasks += [tuple(group[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    return tasks


def arrays(tasks: int, largest: int, at_once: int) -> list[Array]:
    """Cut tasks into job arrays and share out how many may run at once.

    Args:
        tasks: How many there are.
        largest: How many an array can have.
        at_once: How many may run at once in all; arrays that get none wait for an earlier one.
    """
    starts = list(range(0, tasks, largest))
    sizes = [min(largest, tasks - start) for start in starts]
    ways = min(len(starts), at_once)
    found = []
    for n, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if len(starts) > at_once:
            share, after = 1, n - ways if n >= ways else None
        else:
            # In proportion, at least one, and all of them together no more than `at_once`.
            before = sum(sizes[:n])
            spare = at_once - len(starts)
            share = 1 + spare * (before + size) // tasks - spare * before // tasks
            after = None
        found.append(Array(start, size, min(size, share), after))
    return found


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
