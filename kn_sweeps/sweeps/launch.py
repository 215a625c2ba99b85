"""Launching: plan, then execute here or submit. The launcher plugin is a shim over `launch`."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import shlex
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kn_sweeps.progress.interruption import check
from kn_sweeps.records.folders import sweep_folder
from kn_sweeps.records.integrity import unless_damaged
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.records.status import LAUNCHES
from kn_sweeps.sweeps import slurm
from kn_sweeps.sweeps.plan import LaunchConfig, LaunchPlan, plan
from kn_sweeps.sweeps.prefetch import prefetch, statistics_of
from kn_sweeps.sweeps.processes import execute_in_processes
from kn_sweeps.sweeps.record import Launch, LauncherKind, launches, place_of, planning
from kn_sweeps.sweeps.states import DONE, RUNNING, RunState, states
from kn_sweeps.sweeps.submit import Local, Processes, Slurm, submit_detached
from kn_sweeps.sweeps.task import TaskReport, execute

log = logging.getLogger(__name__)

Launcher = Local | Processes | Slurm
LAUNCHERS: dict[LauncherKind, type[Launcher]] = {
    "local": Local,
    "processes": Processes,
    "slurm": Slurm,
}
_POLL_S = 5.0


@dataclass(frozen=True)
class Ended:
    """How a run was left that was asked for.

    Attributes:
        directory: Its directory.
        error: Why it failed; None if it did not: it is done, or not waited for.
    """

    directory: Path
    error: str | None


class SweepFailedError(ValueError):
    """Some runs of a launch failed; its text lists them.

    Attributes:
        ended: How every run was left.
    """

    def __init__(self, message: str, ended: Sequence[Ended]) -> None:
        """Say which failed."""
        super().__init__(message)
        self.ended = list(ended)


def launch(
    composed: Sequence[tuple[str, Mapping[str, Any]]], launcher: Launcher, options: LaunchConfig
) -> list[Ended]:
    """Plan some runs and see to it that they are done.

    Args:
        composed: Overrides, and the config they compose to, resolved, of every run.
        launcher: What executes them.
        options: How.

    Returns:
        How every run was left, in the order given; nothing of a dry run.

    Raises:
        SweepFailedError: If a run failed, as far as it is waited for.
        ValueError: If a config is not valid or the cluster refuses; the message says what to do.
    """
    at_once, max_array = _capacity(launcher, options)
    sweep = sweep_of(composed)
    if not options.dry_run and not options.trust_writers:
        _refuse_other_writers(sweep)
    with ExitStack() as at_work:
        with nullcontext() if options.dry_run else planning(sweep):
            planned = plan(composed, options, sweep, at_once=at_once, max_array=max_array)
            for line in planned.lines(whole=options.dry_run):
                log.info("%s", line)
            if options.dry_run:
                return []
            check()
            report = execute(planned.rescored, None)
            if not planned.tasks:
                return _ended(planned, report)
            configs = [one.config for one in planned.runs]
            if isinstance(launcher, Slurm) and launcher.prefetch:
                prefetch(configs, statistics=launcher.statistics == "here")
            started = _frozen(planned, launcher, options)
            lock = at_work.enter_context(started.at_work())
            started.write()
            if isinstance(launcher, Slurm):
                first = launcher.statistics == "task" and bool(statistics_of(configs))
                submit_detached(started, lock, statistics=first)
        if isinstance(launcher, Local):
            report += execute(planned.runs, started.id)
        elif isinstance(launcher, Processes):
            execute_in_processes(started)
    if isinstance(launcher, Slurm):
        log.info("submitted: job %s", ", ".join(started.jobs()))
        log.info("watch it: kn-sweeps status %s --watch", shlex.quote(_shown(sweep)))
        if options.wait:
            _wait(started)
    if isinstance(launcher, Processes) or options.wait:
        report += _outcome(started)
    return _ended(planned, report)


def sweep_of(composed: Sequence[tuple[str, Mapping[str, Any]]]) -> Path:
    """The directory of the one sweep that some configs belong to.

    Raises:
        ValueError: If there are several, or it does not lie in its results folder.
    """
    places = dict.fromkeys(
        sweep_folder(str(config["results_dir"]), str(config["sweep"])) for _, config in composed
    )
    if len(places) > 1:
        raise ValueError(
            f"a launch is of one sweep; these are {', '.join(map(str, places))}. Launch them one "
            "by one"
        )
    return next(iter(places))


def _refuse_other_writers(sweep: Path) -> None:
    """Refuse results folders that others may write to: what nodes read there runs as you.

    Raises:
        ValueError: If there is one.
    """
    for folder in (sweep / LAUNCHES, sweep, sweep.parent):
        try:
            status = folder.stat()
        except FileNotFoundError:
            continue
        who = []
        if status.st_uid not in (os.getuid(), 0):
            who.append(f"user {status.st_uid}, whose it is")
        if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
            who.append(f"group {status.st_gid}")
        if status.st_mode & stat.S_IWOTH:
            who.append("everyone")
        if who:
            raise ValueError(
                f"{folder} may be written to by {' and '.join(who)}: whoever may do that can run "
                "code as you, for tasks read there what they are to do. Make it yours alone "
                f"(chmod go-w {shlex.quote(str(folder))}) or say trust_writers=true"
            )


def _is_private(group: int) -> bool:
    """Whether a group is a user's own, as many systems give one to each."""
    try:
        found = grp.getgrgid(group)
        own = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return False
    return found.gr_name == own and set(found.gr_mem) <= {own}


def _capacity(launcher: Launcher, options: LaunchConfig) -> tuple[int | None, int | None]:
    """How many tasks run at once, and how many an array can have."""
    if isinstance(launcher, Slurm):
        elsewhere = options.dry_run and not slurm.available()
        largest = slurm.USUAL_MAX_ARRAY if elsewhere else slurm.max_array_size()
        return launcher.array_parallelism, largest
    return (launcher.processes if isinstance(launcher, Processes) else None), None


def _frozen(planned: LaunchPlan, launcher: Launcher, options: LaunchConfig) -> Launch:
    (kind,) = (name for name, cls in LAUNCHERS.items() if isinstance(launcher, cls))
    how = (kind, asdict(launcher), asdict(options))
    again = [RunDirectory(planned.sweep / run.id) for run in planned.runs if run.config["rerun"]]
    before = (unless_damaged(one.summary, "it is computed again") or {} for one in again)
    after = max((str(one.get("launch") or "") for one in before), default="")
    return Launch.new(planned.sweep, *how, planned.tasks, planned.arrays, after)


def _wait(started: Launch) -> None:
    """Wait until the queue has nothing of a launch any more."""
    there = True
    while there:
        until = time.monotonic() + _POLL_S
        while time.monotonic() < until:
            check()
            time.sleep(0.1)
        try:
            there = any((place_of(item.name) or ("",))[0] == started.id for item in slurm.queue())
        except ValueError as error:
            log.warning("still waiting, though %s", error)


def _outcome(started: Launch) -> TaskReport:
    found = states(started.sweep, launches(started.sweep))
    report = TaskReport()
    for task in started.tasks:
        for one in task:
            state = found[one.id]
            if state.state == RUNNING:
                report.elsewhere.append(one.id)
            elif state.state != DONE:
                report.failed[one.id] = str(state.status.get("error") or state.state)
    return report


def _ended(planned: LaunchPlan, report: TaskReport) -> list[Ended]:
    """How every run was left; raises SweepFailedError if one failed."""
    names = {one.id: one.name for one in (*planned.rescored, *planned.runs)}
    ended = [Ended(planned.sweep / one.id, report.failed.get(one.id)) for one in planned.asked]
    if report.elsewhere:
        log.info("%d runs were left to another process", len(report.elsewhere))
    if not report.failed:
        return ended
    lines = [f"  {run_id} [{names[run_id]}]: {why}" for run_id, why in report.failed.items()]
    raise SweepFailedError(
        f"{len(report.failed)} of {len(names)} runs failed; the same command tries them again:\n"
        + "\n".join(lines),
        ended,
    )


def _shown(sweep: Path) -> str:
    """A path as people would type it from here."""
    relative = os.path.relpath(sweep)
    return relative if not relative.startswith("..") else str(sweep)


def again(unfinished: Sequence[RunState], *, trust_writers: bool = False) -> None:
    """Launch some runs again as they were launched: the same configs, launcher and options.

    Args:
        unfinished: The runs.
        trust_writers: Launch though others may write to the results folder.

    Raises:
        SweepFailedError: If a run failed, as far as it is waited for.
        ValueError: If the cluster refuses.
    """
    by_launch: dict[str, list[RunState]] = {}
    for one in unfinished:
        by_launch.setdefault(one.launch.id, []).append(one)
    for some in by_launch.values():
        last = some[0].launch
        launcher = LAUNCHERS[last.kind](**last.settings)
        # Its configs are shards already. Whom to trust, a file that others may write cannot say.
        how = {**last.options, "shards": 1, "dry_run": False, "trust_writers": trust_writers}
        # Where the sweep lies now, which may have been moved since or be named from elsewhere.
        place = {"results_dir": str(last.sweep.parent), "sweep": last.sweep.name}
        try:
            os.chdir(last.cwd)
        except OSError as error:
            log.warning(
                "%s, where it was launched, is not there any more (%s): relative paths in its "
                "configs are taken from here",
                last.cwd,
                error.strerror,
            )
        runs = [(one.run.name, {**one.run.config, **place}) for one in some]
        launch(runs, launcher, LaunchConfig(**how))
