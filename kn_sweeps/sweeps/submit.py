"""The launchers' settings, and submitting: `python -m kn_sweeps.sweeps.submit DIR [statistics]`.

Submitting to Slurm runs in a session of its own, so that it finishes though the command that
planned the launch is killed: submitit puts a task's pickle in place only after the job is queued.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Literal

from kn_sweeps.records.places import CHECKOUT
from kn_sweeps.sweeps.record import Launch
from kn_sweeps.sweeps.task import NodeTask


@dataclass(frozen=True, kw_only=True)
class Local:
    """One run after the other, in this process."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Tasks in processes of this machine, some at once.

    Attributes:
        processes: How many at once.
        threads: Threads of each; null to share the machine's cores among them. Rows are equal
            bit for bit only where it is.
        gpus: Indices of the GPUs, dealt out to the processes in turn; empty for none.
    """

    processes: int = 2
    threads: int | None = None
    gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Job arrays. What is null is the cluster's default.

    Attributes:
        timeout_min: Time limit of a task, in minutes.
        cpus_per_task: Cores of a task.
        gpus_per_node: GPUs of a task.
        mem_gb: Memory of a task, in GB.
        partition: Slurm's, as the next four.
        account: Who pays.
        qos: Quality of service.
        constraint: Features a node must have.
        gres: Generic resources, such as `gpu:a100:1`.
        array_parallelism: How many tasks may run at once, in all arrays of a launch.
        signal_delay_s: How long before the time limit a task is warned, in seconds.
        requeue: How often a task that timed out or was preempted goes back into the queue.
        setup: Shell lines before a task starts, such as `module load cuda`.
        container: Image the task runs in (pyxis: `srun --container-image`).
        srun_args: More arguments of srun.
        additional_parameters: More options of sbatch, by name.
        offline: Whether nodes go without the internet: the hub is not asked for anything.
        prefetch: Whether models, data and texts are fetched before submission.
        statistics: Where second moments are computed, once for all runs: by a `task` that the
            others wait for, or `here`, before submission.
    """

    timeout_min: int = 240
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    mem_gb: float | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    array_parallelism: int = 256
    signal_delay_s: int = 120
    requeue: int = 10
    setup: tuple[str, ...] = ()
    container: str | None = None
    srun_args: tuple[str, ...] = ()
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    offline: bool = True
    prefetch: bool = True
    statistics: Literal["task", "here"] = "task"

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant."""
        if not 0 <= self.signal_delay_s < 60 * self.timeout_min:
            raise ValueError(
                f"signal_delay_s={self.signal_delay_s} must be less than the time limit, "
                f"timeout_min={self.timeout_min}"
            )
        if self.statistics not in ("task", "here"):
            raise ValueError(f"statistics must be task or here, got {self.statistics}")
        if self.requeue < 0:
            raise ValueError(f"requeue must be 0 or more, got {self.requeue}")
        for name in ("timeout_min", "array_parallelism"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def parameters(self) -> dict[str, Any]:
        """What submitit is told, but for the name and what belongs to one array."""
        names = (
            *("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "signal_delay_s"),
            *("partition", "account", "qos", "constraint", "gres"),
        )
        plain = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb")
        given = {
            name if name in plain else f"slurm_{name}": getattr(self, name)
            for name in names
            if getattr(self, name) is not None
        }
        container = () if self.container is None else (f"--container-image={self.container}",)
        # From Slurm 22.05 on, srun does not take over what sbatch was asked for.
        cores = () if self.cpus_per_task is None else (f"--cpus-per-task={self.cpus_per_task}",)
        code = [f"export {name}={shlex.quote(value)}" for name, value in code_path().items()]
        # Where nodes have no internet, asking for it costs minutes of waiting before it fails.
        offline = ["export HF_HUB_OFFLINE=1"] if self.offline else []
        return given | {
            "slurm_setup": [*code, *offline, *self.setup],
            "slurm_srun_args": [*cores, *container, *self.srun_args],
        }


def code_path() -> dict[str, str]:
    """Environment variables by which another process finds the code that this one runs.

    Python looks first where a script lies or into the working directory: without these, a node
    would take another copy of the project than the `launch.py` that was called. What is installed
    the interpreter finds by itself.
    """
    installed = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    own = [] if CHECKOUT is None else [str(CHECKOUT)]
    for place in sys.path:
        inside = any(Path(place).is_relative_to(prefix) for prefix in installed)
        if place and not inside and "-packages" not in place:
            own.append(os.path.abspath(place))
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(own)), "PYTHONSAFEPATH": "1"}


def submit(launch: Launch, *, statistics: bool) -> None:
    """Submit every array of a launch, noting each id as it comes.

    Args:
        launch: What to submit.
        statistics: Whether a task before all others computes what they need of second moments.

    Raises:
        ValueError: If Slurm refuses one; those before it stay submitted.
    """
    settings = Slurm(**launch.settings)  # checked when the launch was planned
    first = {}
    if statistics:
        # Its name is that of one more array, so that the queue tells whose it is.
        job = _submitted(launch, settings, len(launch.arrays), [NodeTask(str(launch.folder), None)])
        first = {"dependency": f"afterok:{job}", "kill-on-invalid-dep": "yes"}
    jobs: list[str] = []
    for number, array in enumerate(launch.arrays):
        more = first if array.after is None else {"dependency": f"afterany:{jobs[array.after]}"}
        tasks = [NodeTask(str(launch.folder), array.first + n) for n in range(array.tasks)]
        jobs.append(_submitted(launch, settings, number, tasks, array.parallel, more))
        launch.submitted(jobs)


def _submitted(
    launch: Launch,
    settings: Slurm,
    number: int,
    tasks: Sequence[NodeTask],
    parallel: int = 1,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Submit some tasks as one array; gives its id."""
    import submitit

    executor = submitit.AutoExecutor(
        folder=launch.folder, cluster="slurm", slurm_max_num_timeout=settings.requeue
    )
    options = {"requeue": True, "open-mode": "append", **more, **settings.additional_parameters}
    executor.update_parameters(
        **settings.parameters(),
        name=launch.job_name(number),
        slurm_array_parallelism=parallel,
        slurm_additional_parameters=options,
    )
    try:
        submitted = executor.submit_array(tasks)
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        raise ValueError(
            f"Slurm refused array {number + 1} of {len(launch.arrays)}: {error}. "
            f"{sum(a.tasks for a in launch.arrays[:number])} tasks were submitted; the same "
            "command submits the rest"
        ) from error
    return str(submitted[0].job_id.split("_")[0])


def submit_detached(launch: Launch, lock: IO[str], *, statistics: bool) -> None:
    """Submit in a process that outlives this one.

    Args:
        launch: What to submit; its record is written.
        lock: Marks it as being seen to, until that process ends.
        statistics: As in `submit`; that process need not import model libraries to know it.

    Raises:
        ValueError: If it fails.
    """
    first = ["statistics"] if statistics else []
    command = [sys.executable, "-m", "kn_sweeps.sweeps.submit", str(launch.folder), *first]
    done = subprocess.Popen(
        command,
        env={**os.environ, **code_path()},
        start_new_session=True,
        pass_fds=[lock.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, errors = done.communicate()
    if done.returncode:
        raise ValueError(errors.strip().removeprefix("error: ") or "the submission failed")


def main() -> None:
    """Submit one launch."""
    # Whatever is sent to the terminal's processes, the submission is finished.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        submit(Launch.read(Path(sys.argv[1])), statistics="statistics" in sys.argv[2:])
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
