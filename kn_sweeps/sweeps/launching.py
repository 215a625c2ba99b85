"""Launching: plan, then execute here or submit. The launcher plugin is a shim over `launch`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kn_sweeps.interruption import check
from kn_sweeps.prefetch import prefetch
from kn_sweeps.run import run
from kn_sweeps.sweeps import slurm
from kn_sweeps.sweeps.launches import Kind, Launch, PlannedRun, launches, planning
from kn_sweeps.sweeps.plan import LaunchConfig, Plan, plan
from kn_sweeps.sweeps.processes import execute_in_processes
from kn_sweeps.sweeps.states import DONE, launched_at, states
from kn_sweeps.sweeps.submit import Local, Processes, Slurm, submit_detached
from kn_sweeps.sweeps.task import Report, execute

log = logging.getLogger(__name__)

Launcher = Local | Processes | Slurm
LAUNCHERS: dict[Kind, type[Launcher]] = {"local": Local, "processes": Processes, "slurm": Slurm}
_POLL_S = 5.0


class SweepFailedError(ValueError):
    """Some runs of a launch failed; its text lists them."""


def launch(
    composed: Sequence[tuple[str, Mapping[str, Any]]], launcher: Launcher, options: LaunchConfig
) -> None:
    """Plan some runs and see to it that they are done.

    Args:
        composed: Overrides, and the config they compose to, resolved, of every run.
        launcher: What executes them.
        options: How.

    Raises:
        SweepFailedError: If a run failed, as far as it is waited for.
        ValueError: If a config is not valid or the cluster refuses; the message says what to do.
    """
    at_once, max_array = _capacity(launcher)
    sweep = sweep_of(composed)
    with ExitStack() as at_work:
        with planning(sweep):
            planned = plan(composed, options, sweep, at_once=at_once, max_array=max_array)
            for line in planned.lines(whole=options.dry_run):
                log.info("%s", line)
            if options.dry_run:
                return
            for one in planned.rescored:
                run(one.config)
            if not planned.tasks:
                return
            if isinstance(launcher, Slurm) and launcher.prefetch:
                prefetch([one.config for one in planned.runs])
            started = _frozen(planned, launcher)
            lock = at_work.enter_context(started.at_work())
            started.write()
            if isinstance(launcher, Slurm):
                submit_detached(started, lock)
        if isinstance(launcher, Local):
            report = execute(planned.runs, launched_at(started))
        elif isinstance(launcher, Processes):
            execute_in_processes(started)
    if isinstance(launcher, Slurm):
        log.info("submitted: job %s", ", ".join(started.jobs()))
        log.info("watch it: python -m kn_sweeps.status %s --watch", _shown(sweep))
        if not options.wait:
            return
        _wait(started)
    if not isinstance(launcher, Local):
        report = _outcome(started)
    _complain(started, report)


def sweep_of(composed: Sequence[tuple[str, Mapping[str, Any]]]) -> Path:
    """The directory of the one sweep that some configs belong to.

    Raises:
        ValueError: If there are several.
    """
    places = dict.fromkeys(
        Path(str(config["results_dir"])) / str(config["sweep"]) for _, config in composed
    )
    if len(places) > 1:
        raise ValueError(
            f"a launch is of one sweep; these are {', '.join(map(str, places))}. Launch them one "
            "by one"
        )
    return next(iter(places))


def _capacity(launcher: Launcher) -> tuple[int | None, int | None]:
    """How many tasks run at once, and how many an array can have."""
    if isinstance(launcher, Slurm):
        return launcher.array_parallelism, slurm.max_array_size()
    return (launcher.processes if isinstance(launcher, Processes) else None), None


def _frozen(planned: Plan, launcher: Launcher) -> Launch:
    (kind,) = (name for name, cls in LAUNCHERS.items() if isinstance(launcher, cls))
    return Launch.new(planned.sweep, kind, asdict(launcher), planned.tasks, planned.arrays)


def _wait(started: Launch) -> None:
    """Wait until the queue has nothing of a launch any more."""
    names = {started.job_name(n) for n in range(len(started.arrays))}
    while any(item.name in names for item in slurm.queue()):
        until = time.monotonic() + _POLL_S
        while time.monotonic() < until:
            check()
            time.sleep(0.1)


def _outcome(started: Launch) -> Report:
    found = states(started.sweep, launches(started.sweep))
    report = Report()
    for task in started.tasks:
        for one in task:
            state = found[one.id]
            if state.state != DONE:
                report.failed[one.id] = str(state.status.get("error") or state.state)
    return report


def _complain(started: Launch, report: Report) -> None:
    runs = {one.id: one for task in started.tasks for one in task}
    if report.elsewhere:
        log.info("%d runs were left to another process", len(report.elsewhere))
    if not report.failed:
        return
    lines = [f"  {name} [{runs[name].name}]: {why}" for name, why in report.failed.items()]
    raise SweepFailedError(
        f"{len(report.failed)} of {len(runs)} runs failed; the same command tries them again:\n"
        + "\n".join(lines)
    )


def _shown(sweep: Path) -> str:
    """A path as people would type it from here."""
    relative = os.path.relpath(sweep)
    return relative if not relative.startswith("..") else str(sweep)


def again(sweep: Path, chosen: Sequence[PlannedRun]) -> None:
    """Launch some runs again with the frozen configs and the launcher they had.

    Raises:
        SweepFailedError: If a run failed, as far as it is waited for.
        ValueError: If the cluster refuses.
    """
    last = launches(sweep)[-1]
    launcher = LAUNCHERS[last.kind](**last.settings)
    launch([(one.name, one.config) for one in chosen], launcher, LaunchConfig())
