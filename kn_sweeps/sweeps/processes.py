"""Executing the tasks of a launch in processes of this machine, a bounded number at once.

Each has a session of its own, so that Ctrl-C is for this process, which tells them; and a lock
(`Launch.task_lock`), by which it is found though this process was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress

from kn_sweeps.progress.interruption import check
from kn_sweeps.sweeps.record import Launch
from kn_sweeps.sweeps.submit import Processes, code_path
from kn_sweeps.threads import CORES, cores

_POLL_S = 0.2
_GRACE_S = 10


def execute_in_processes(launch: Launch) -> None:
    """Do every task; returns when all have ended, whatever became of them.

    Raises:
        Interrupted: If this process is told to stop; the tasks are told so too.
    """
    settings = Processes(**launch.settings)
    waiting = list(range(len(launch.tasks)))[::-1]
    running: dict[int, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            for slot in range(settings.processes):
                if slot in running and running[slot].poll() is not None:
                    del running[slot]
                if waiting and slot not in running:
                    running[slot] = _started(launch, waiting.pop(), slot, settings)
            check()
            time.sleep(_POLL_S)
    except BaseException:
        _stop(running.values())
        raise


def _started(launch: Launch, task: int, slot: int, settings: Processes) -> subprocess.Popen[bytes]:
    gpu = str(settings.gpus[slot % len(settings.gpus)]) if settings.gpus else ""
    more = {CORES: str(max(1, cores() // settings.processes)), "CUDA_VISIBLE_DEVICES": gpu}
    if settings.threads:
        more["OMP_NUM_THREADS"] = str(settings.threads)
    logs = launch.folder / f"task-{task}"
    with logs.with_suffix(".out").open("ab") as out, logs.with_suffix(".err").open("ab") as err:
        return subprocess.Popen(
            [sys.executable, "-m", "kn_sweeps.sweeps.task", str(launch.folder), str(task)],
            env={**os.environ, **code_path(), **more},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def _stop(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Let every process save what it has, and end it with those it started."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + _GRACE_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
