"""Where a run's numbers come from: code, versions, machine, and what each stage took."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("kn_sweeps", "torch", "transformers", "tokenizers", "datasets", "hydra-core", "numpy")


class Stages:
    """Seconds and peak memory of a run's stages, in the order they ended."""

    def __init__(self) -> None:
        """Start with none."""
        self.records: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block; a name used again adds up."""
        start = time.perf_counter()
        try:
            yield
        finally:
            record = self.records.setdefault(name, {"seconds": 0.0, "peak_memory_bytes": 0.0})
            record["seconds"] = round(record["seconds"] + time.perf_counter() - start, 3)
            record["peak_memory_bytes"] = float(_peak_memory())


def environment() -> dict[str, Any]:
    """Commit, versions and machine."""
    return {
        **_commit(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _peak_memory() -> int:
    """Largest resident set so far, in bytes; on CUDA, what was allocated there."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
