"""With how many threads a process computes, and how its threads wait for each other.

The threads of a small model wait for each other more than they compute, and where other programs
use the cores too, threads that wait by spinning take those cores from the thread they wait for.
What a user sets (OMP_NUM_THREADS, OMP_WAIT_POLICY and the like) is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

CORES = "KN_SWEEPS_CORES"
"""How many cores a process may take of those there are, where several share them."""
SMALL = 20_000_000
"""Parameters up to which one thread is as fast as several."""

_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_CGROUP, _OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def wait_passively(environ: MutableMapping[str, str] = os.environ) -> None:
    """Have threads that wait leave their core to others; before a model library is imported."""
    if not any(name in environ for name in _WAITS):
        environ["OMP_WAIT_POLICY"] = "PASSIVE"


def cores(environ: Mapping[str, str] = os.environ, cgroup: Path = _CGROUP, own: Path = _OWN) -> int:
    """How many cores this process may use: those it was given, by whomever.

    Args:
        environ: Says how many cores are its share, and Slurm's.
        cgroup: Where groups of processes are described.
        own: Says in which this one is.
    """
    every = os.cpu_count() or 1
    given = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else every]
    given += [
        int(environ[n]) for n in (CORES, "SLURM_CPUS_PER_TASK") if environ.get(n, "").isdigit()
    ]
    given += [
        -(-quota // period) for quota, period in _quotas(cgroup, own) if quota > 0 and period > 0
    ]
    return max(1, min(given))


def for_model(parameters: int, environ: Mapping[str, str] = os.environ) -> int | None:
    """How many threads compute with a model; None where the user has said it.

    Args:
        parameters: Of the model.
        environ: What the user said, and what is given.
    """
    if any(name in environ for name in _NUMBERS):
        return None
    return 1 if parameters <= SMALL else cores(environ)


def compute_with_threads(parameters: int) -> None:
    """Compute with as many threads as `for_model` says from here on."""
    if (number := for_model(parameters)) is not None:
        import torch  # slow, and what only counts cores needs none

        torch.set_num_threads(number)


def _quotas(cgroup: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Microseconds of all cores in so many microseconds, as cgroups of either version say.

    A group's quota binds those in it: Slurm and systemd set theirs somewhere above a process's own.
    """
    for path in _groups(own):
        for place in (cgroup / path, cgroup / "cpu" / path, cgroup / "cpu,cpuacct" / path):
            with suppress(OSError, ValueError):  # no such group, or `max`
                quota, period = (place / "cpu.max").read_text().split()
                yield int(quota), int(period)
            with suppress(OSError, ValueError):
                files = (place / f"cpu.cfs_{one}_us" for one in ("quota", "period"))
                quota, period = (file.read_text() for file in files)
                yield int(quota), int(period)


def _groups(own: Path) -> Iterator[PurePosixPath]:
    """The groups a process is in, and those above them."""
    yield PurePosixPath()
    with suppress(OSError):
        for line in own.read_text().splitlines():
            *_, name = line.split(":", 2)
            path = PurePosixPath(name.lstrip("/"))
            yield from (one for one in (path, *path.parents) if one.parts)
