"""Executing the tasks of a launch in processes of this machine, a bounded number at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kn_sweeps.interruption import check
from kn_sweeps.sweeps.launches import Launch
from kn_sweeps.sweeps.submit import Processes
from kn_sweeps.sweeps.task import Task

_A_MONTH_MIN = 60 * 24 * 30
_POLL_S = 0.2
_GRACE_S = 10


def execute_in_processes(launch: Launch) -> None:
    """Do every task; returns when all have ended, whatever became of them.

    Raises:
        Interrupted: If this process is told to stop; the tasks are told so too.
    """
    settings = Processes(**launch.settings)
    waiting = list(range(len(launch.tasks)))[::-1]
    running: dict[int, Any] = {}
    try:
        while waiting or running:
            for slot in range(settings.processes):
                if slot in running and running[slot].done():
                    del running[slot]
                if waiting and slot not in running:
                    running[slot] = _started(launch, waiting.pop(), slot, settings)
            check()
            time.sleep(_POLL_S)
    except BaseException:
        _stop(running)
        raise


def _started(launch: Launch, task: int, slot: int, settings: Processes) -> Any:
    import submitit

    executor = submitit.LocalExecutor(folder=launch.folder)
    gpu = [settings.gpus[slot % len(settings.gpus)]] if settings.gpus else []
    cores = max(1, (os.cpu_count() or 1) // settings.processes)
    executor.update_parameters(timeout_min=_A_MONTH_MIN, gpus_per_node=len(gpu), visible_gpus=gpu)
    # Not by `setup`: submitit would put a shell in between, which keeps signals to itself.
    with _environment(OMP_NUM_THREADS=str(settings.threads or cores)), _deaf_to_the_terminal():
        return executor.submit(Task(str(launch.folder), task))


@contextmanager
def _deaf_to_the_terminal() -> Iterator[None]:
    """Ctrl-C is for this process, which then tells those started in this block (`_stop`)."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables of processes started in this block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _stop(running: dict[int, Any]) -> None:
    """Let every process save what it has, and end it."""
    processes = [job._process for job in running.values()]
    for process in processes:
        process.send_signal(signal.SIGTERM)
    until = time.monotonic() + _GRACE_S
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(_POLL_S)
    for process in processes:
        # The task is a child of submitit's process, which only forwards signals.
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid)], check=False)
        process.kill()
