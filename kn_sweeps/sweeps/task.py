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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kn_sweeps.garbage import importing
from kn_sweeps.progress.interruption import STOPPED, Interrupted, check, listening
from kn_sweeps.progress.saving import how_often_kept
from kn_sweeps.records.files import about_files, held
from kn_sweeps.records.provenance import commit
from kn_sweeps.records.status import failed, job_id, noted, read_status
from kn_sweeps.threads import wait_passively

if TYPE_CHECKING:
    from kn_sweeps.sweeps.record import Launch, PlannedRun

TIMED_OUT, PREEMPTED = "timed out", "preempted"
_EARLY_S = 75
"""A warning of a timeout comes up to a minute early (man sbatch, --signal), and Python starts."""

_STEPS_IN_A_LIMIT = 4
"""Steps that fit into a time limit at least: one that is cut off costs no more than a quarter."""

log = logging.getLogger("kn_sweeps.sweeps")


class TaskFailedError(Exception):
    """Some runs of a task failed; makes the task end non-zero."""


@dataclass
class TaskReport:
    """What became of some runs.

    Attributes:
        failed: Run id to the reason.
        elsewhere: Runs that another process was working on.
    """

    failed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)

    def __iadd__(self, other: TaskReport) -> TaskReport:
        """Add what became of others."""
        self.failed |= other.failed
        self.elsewhere += other.elsewhere
        return self


def execute(
    runs: Sequence[PlannedRun], launch: str | None, step_s: float | None = None
) -> TaskReport:
    """Do some runs, one after the other.

    Args:
        runs: The runs.
        launch: The id of the launch they are part of; None for none.
        step_s: Seconds a step should take at most; None for the usual bound.

    Raises:
        Interrupted: If the process is told to stop; what the current run has is kept.
    """
    if not runs:
        return TaskReport()
    from tqdm import tqdm

    with importing():
        from kn_sweeps.evaluation.regimes import STEP_S
        from kn_sweeps.models.last_loaded import LastLoaded
        from kn_sweeps.records.run_directory import RunBusyError
        from kn_sweeps.run import run

    bound = min(STEP_S, step_s or STEP_S)
    load, report = LastLoaded(), TaskReport()
    bar = tqdm(runs, unit="run", desc="sweep", disable=None if len(runs) > 1 else True)
    for one in bar:
        check()
        try:
            run(one.config, load, launch, one.name, planned=one.id, step_s=bound)
        except RunBusyError as error:
            report.elsewhere.append(one.id)
            log.warning("%s", error)
        except (Exception, SystemExit) as error:
            report.failed[one.id] = message = explained(error)
            log.error("error: %s [%s]", message, one.name)
            _note_failure([one], launch, error)
            if _device_is_lost():
                log.error("the accelerator does not answer any more: the task ends here")
                break
    return report


def _note_failure(
    runs: Sequence[PlannedRun], launch: str | None, error: BaseException, sweep: Path | None = None
) -> None:
    """Let runs that could not begin say why, as those do that began."""
    for one in runs:
        place = sweep or Path(str(one.config["results_dir"])) / str(one.config["sweep"])
        with suppress(OSError):  # a full disk: the message is in the log
            if launch is not None:
                failed(place / one.id, launch, error)


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
class NodeTask:
    """One task of a launch, as it is sent to a node.

    Attributes:
        folder: The launch's folder.
        number: Which task; None for what must be computed before the others.
    """

    folder: str
    number: int | None

    def checkpoint(self) -> Any:
        """What submitit puts back into the queue if a signal comes before `listening` does."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def __call__(self) -> None:
        """Do its runs.

        Raises:
            TaskFailedError: If a run failed or the task was stopped.
        """
        from kn_sweeps.sweeps.record import Launch

        began = time.time()
        wait_passively()
        commit()  # that of the code this process computes with, whatever becomes of the files
        launch = Launch.read(Path(self.folder))
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        logging.getLogger("kn_sweeps").setLevel(logging.DEBUG)
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.INFO)
        first = self.number is None
        runs = launch.runs if self.number is None else launch.tasks[self.number]
        name = "statistics" if first else f"task {self.number}"
        log.info("%s of launch %s: %d runs", name, launch.id, len(runs))
        try:
            with listening(lambda number: _meaning(number, launch, began)):
                report = _executed(runs, launch, only_statistics=first)
        except Interrupted as reason:
            log.info("stopped: %s", reason)
            _after(str(reason), runs, launch)
            raise TaskFailedError(str(reason)) from None
        if report.failed:
            names = {run.id: run.name for run in runs}
            lines = (f"  {name} [{names[name]}]: {why}" for name, why in report.failed.items())
            raise TaskFailedError(
                f"{len(report.failed)} of {len(runs)} runs failed:\n" + "\n".join(lines)
            )


def _executed(runs: Sequence[PlannedRun], launch: Launch, *, only_statistics: bool) -> TaskReport:
    """Do the runs of a task; where not even that can begin, each of them says so."""
    from kn_sweeps.sweeps.prefetch import compute

    try:
        os.chdir(launch.cwd)
        if only_statistics:
            compute([one.config for one in runs])
            return TaskReport()
        return execute(runs, launch.id, _limit_s(launch) / _STEPS_IN_A_LIMIT)
    except Exception as error:
        log.exception("the task could not begin")
        _note_failure(runs, launch.id, error, launch.sweep)
        return TaskReport(failed={one.id: explained(error) for one in runs})


def _after(reason: str, runs: Sequence[PlannedRun], launch: Launch) -> None:
    """Go back into the queue if that may help, or say why not."""
    if reason == STOPPED or _restarts() >= launch.settings.get("requeue", 0):
        return
    # The first time a model may have had to be fetched; the second time nothing will change.
    if reason == TIMED_OUT and _restarts() and not how_often_kept():
        minutes = launch.settings["timeout_min"]
        message = (
            f"not put back into the queue: in a whole time limit of {minutes} min not one step was "
            "finished that a restart could go on behind; raise hydra.launcher.timeout_min"
        )
        log.error("%s", message)
        for one in runs:
            status = read_status(launch.sweep / one.id)
            if (status.get("state"), status.get("launch")) == (TIMED_OUT, launch.id):
                noted(launch.sweep / one.id, error=message)
        return
    _requeue()


def _limit_s(launch: Launch) -> float:
    """Seconds until a task is warned of its time limit."""
    minutes = float(launch.settings.get("timeout_min", math.inf))
    return 60 * minutes - float(launch.settings.get("signal_delay_s", 0))


def _meaning(number: int, launch: Launch, began: float) -> str:
    """What a signal says: scancel sends TERM, a timeout or preemption what sbatch was asked for."""
    if number == signal.SIGTERM:
        return STOPPED
    return TIMED_OUT if time.time() - began >= _limit_s(launch) - _EARLY_S else PREEMPTED


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _requeue() -> None:
    """Go back into the queue."""
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


def main() -> None:
    """Do one task in this process: `python -m kn_sweeps.sweeps.task LAUNCH_DIR NUMBER`."""
    from kn_sweeps.sweeps.record import Launch

    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    with held(Launch.read(folder).task_lock(number)) as mine:
        if mine is None:
            sys.exit(f"error: another process is doing task {number} of {folder}")
        try:
            NodeTask(str(folder), number)()
        except TaskFailedError as error:
            sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
