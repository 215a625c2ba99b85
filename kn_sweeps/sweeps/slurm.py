"""What is asked of Slurm besides submitting: its queue, its limits, to cancel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PATIENCE_S = 60
USUAL_MAX_ARRAY = 1001
"""Slurm's own default."""


_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")


@dataclass(frozen=True)
class Queued:
    """One task in the queue.

    Attributes:
        name: Its job's name.
        index: Its index in the array; 0 for a job that is no array.
        job: What Slurm calls it, `51_3` or `51`.
        running: Whether it has started.
        reason: Why it waits, in Slurm's word (`JobHeldUser`, `Priority`); empty where it does not.
    """

    name: str
    index: int
    job: str
    running: bool
    reason: str = ""


def queue(users: Iterable[int] | None = None) -> list[Queued]:
    """Some users' tasks that wait or run.

    Args:
        users: Their numbers; None for this user.

    Raises:
        ValueError: If Slurm does not answer.
    """
    whose = ",".join(map(str, sorted(set(users or [os.getuid()]))))
    # The name comes last and is taken as it is: people put what they like into theirs.
    wanted = "%F|%K|%T|%r|%j"
    lines = _ask("squeue", "--noheader", "--array", "--user", whose, "--format", wanted)
    found = []
    for line in lines.split("\n"):
        parts = line.split("|", 4)
        if len(parts) < 5 or not parts[0].isdigit():
            continue  # the rest of a name with a line break in it
        job, index, state, reason, name = parts
        array = index.isdigit()
        found.append(
            Queued(
                name,
                int(index) if array else 0,
                f"{job}_{index}" if array else job,
                # A task that is completing is about to leave, and its process has ended.
                state not in _WAITING,
                reason if state in _WAITING and reason != "None" else "",
            )
        )
    return found


def max_array_size() -> int:
    """The largest number of tasks an array can have (indices start at 0).

    Raises:
        ValueError: If Slurm does not answer.
    """
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    return max(1, int(found[1])) if found else USUAL_MAX_ARRAY


def cancel(jobs: Iterable[str]) -> None:
    """Cancel jobs or tasks of arrays.

    Raises:
        ValueError: If Slurm does not answer.
    """
    if wanted := list(jobs):
        _ask("scancel", *wanted)


def requeue(job: str) -> None:
    """Put a running task back into the queue; Slurm ends it.

    Raises:
        ValueError: If Slurm does not.
    """
    _ask("scontrol", "requeue", job)


def available() -> bool:
    """Whether Slurm's commands are here."""
    return shutil.which("squeue") is not None


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except FileNotFoundError:
        raise ValueError(
            f"{command[0]} is not here: what was or is to be submitted to Slurm needs a machine of "
            "its cluster"
        ) from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{command[0]} did not answer within {_PATIENCE_S} s") from None
    if done.returncode:
        raise ValueError(f"{_shown(command)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _shown(command: Sequence[str]) -> str:
    return " ".join(command[:3])
