"""Executing the runs of one task, here or on a node.

A run's failure ends that run only. A model is loaded once for the runs that share it.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.files import about_files
from kn_sweeps.interruption import STOPPED, Interrupted, check, listening

if TYPE_CHECKING:
    from kn_sweeps.sweeps.launches import Launch, PlannedRun

TIMED_OUT, PREEMPTED = "timed out", "preempted"
_EARLY_S = 75
"""A warning of a timeout comes up to a minute early (man sbatch, --signal), and Python starts."""

log = logging.getLogger("kn_sweeps.sweeps")


class TaskFailedError(Exception):
    """Some runs of a task failed; makes the task end non-zero."""


@dataclass
class Report:
    """What became of some runs.

    Attributes:
        failed: Run id to the reason.
        elsewhere: Runs that another process was working on.
    """

    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)

    def __iadd__(self, other: Report) -> Report:
        """Add what became of others."""
        self.failed |= other.failed
        self.elsewhere += other.elsewhere
        return self


def execute(runs: Sequence[PlannedRun], launched: float) -> Report:
    """Do some runs, one after the other.

    Args:
        runs: The runs.
        launched: When they were asked for, in seconds since 1970.

    Raises:
        Interrupted: If the process is told to stop; what the current run has is kept.
    """
    if not runs:
        return Report()
    from tqdm import tqdm

    from kn_sweeps.models.loading import LastLoaded
    from kn_sweeps.run import run
    from kn_sweeps.store import RunBusyError

    load, report = LastLoaded(), Report()
    bar = tqdm(runs, unit="run", desc="sweep", disable=None if len(runs) > 1 else True)
    for one in bar:
        check()
        try:
            run(one.config, load, launched, one.name)
        except RunBusyError as error:
            report.elsewhere.append(one.id)
            log.warning("%s", error)
        except (Exception, SystemExit) as error:
            report.failed[one.id] = message = explained(error)
            log.error("error: %s [%s]", message, one.name)
            if _device_is_lost():
                log.error("the accelerator does not answer any more: the task ends here")
                break
    return report


def _device_is_lost() -> bool:
    """Whether a failure left CUDA unusable for this process (a device-side assertion, say)."""
    import torch

    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def explained(error: BaseException) -> str:
    """An error in one line, with its kind unless it is one that a message is written for."""
    if isinstance(error, OSError):
        return about_files(error)
    if isinstance(error, SystemExit):
        return f"the run called sys.exit({error.code!r})"
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Task:
    """One task of a launch, as it is sent to a node.

    Attributes:
        folder: The launch's folder.
        number: Which task.
    """

    folder: str
    number: int

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue if a signal comes before `listening` does."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Do its runs.

        Raises:
            TaskFailedError: If a run failed or the task was stopped.
        """
        from kn_sweeps.sweeps.launches import Launch

        began = time.time()
        launch = Launch.read(Path(self.folder))
        os.chdir(launch.cwd)
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("kn_sweeps").setLevel(logging.DEBUG)
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.INFO)
        runs = launch.tasks[self.number]
        log.info("task %d of launch %s: %d runs", self.number, launch.id, len(runs))
        try:
            with listening(lambda number: _meaning(number, launch, began)):
                report = execute(runs, launch.launched_at())
        except Interrupted as reason:
            log.info("stopped: %s", reason)
            if str(reason) != STOPPED and _restarts() < launch.settings.get("requeue", 0):
                _requeue()
            raise TaskFailedError(str(reason)) from None
        if report.failed:
            names = {run.id: run.name for run in runs}
            lines = (f"  {name} [{names[name]}]: {why}" for name, why in report.failed.items())
            raise TaskFailedError(
                f"{len(report.failed)} of {len(runs)} runs failed:\n" + "\n".join(lines)
            )


def _meaning(number: int, launch: Launch, began: float) -> str:
    """What a signal says: scancel sends TERM, a timeout or preemption what sbatch was asked for."""
    if number == signal.SIGTERM:
        return STOPPED
    minutes = launch.settings.get("timeout_min", math.inf)
    limit = 60 * minutes - launch.settings.get("signal_delay_s", 0)
    return TIMED_OUT if time.time() - began >= limit - _EARLY_S else PREEMPTED


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _requeue() -> None:
    """Go back into the queue."""
    from kn_sweeps.progress import job_id
    from kn_sweeps.sweeps import slurm

    if (job := job_id()) is None:
        return
    try:
        slurm.requeue(job)
    except ValueError as error:
        log.error("not requeued: %s", error)
    else:
        log.info("requeued as %s", job)
        # Slurm ends this process; if it ended by itself, that would be a failure.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(60)
