"""Where a run's numbers come from: code, versions, machine, and what each stage took."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kn_sweeps.records.places import CHECKOUT, PACKAGE

log = logging.getLogger(__name__)

ROOT = CHECKOUT or PACKAGE
"""The project's own files: the checkout, or the installed package."""

_PACKAGES = ("kn_sweeps", "torch", "transformers", "tokenizers", "datasets", "hydra-core", "numpy")
_CONFIGS = ("conf", "kn_sweeps", "hydra_plugins")


class Stages:
    """Seconds and peak memory of a run's stages, in the order they ended."""

    def __init__(self) -> None:
        """Start with none."""
        self.records: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block; a name used again adds up seconds and takes the larger peak.

        The peak is of this process while the block runs, all that it held before included.
        """
        _forget_peak()
        start = time.perf_counter()
        try:
            yield
        finally:
            record = self.records.setdefault(name, {"seconds": 0.0, "peak_memory_bytes": 0.0})
            record["seconds"] = round(record["seconds"] + time.perf_counter() - start, 3)
            record["peak_memory_bytes"] = max(record["peak_memory_bytes"], float(_peak_memory()))


def environment() -> dict[str, Any]:
    """Versions and machine."""
    import torch

    return {
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


@functools.cache
def commit() -> Mapping[str, Any]:
    """The commit this process runs, and whether its files differ from it.

    Asked first when a process starts, and remembered: that is the code it computes with, whatever
    becomes of the files while it does.

    Returns:
        `commit`, and `dirty`: whether a file that git knows was changed, or one that it does not
        know could decide rows (Python anywhere, YAML among the configs). Both None outside git.
    """
    # A package that is installed somewhere below another repository is none of its files.
    if _git("ls-files", "--error-unmatch", str(Path(__file__).resolve())) is None:
        return {"commit": None, "dirty": None}
    status = _git("status", "--porcelain", "-z", "--untracked-files=all", "--", ".")
    entries = (status or "").split("\0")
    dirty = None if status is None else any(_decides_rows(one) for one in entries if one)
    return {"commit": (_git("rev-parse", "HEAD") or "").strip() or None, "dirty": dirty}


def code(config: Mapping[str, Any]) -> dict[str, Any]:
    """The code that a run is computed with: `commit`'s, and what a config names besides.

    Args:
        config: The run's config; its classes' modules are imported.

    Returns:
        `commit` and `dirty`, which is true where a class lies outside the project, and `others`,
        the checksum of every such module's file.
    """
    others = {}
    for name in sorted(_modules(config)):
        place = getattr(sys.modules.get(name), "__file__", None)
        if place and not Path(place).resolve().is_relative_to(ROOT):
            others[name] = hashlib.sha256(Path(place).read_bytes()).hexdigest()
    return {**commit(), **({"dirty": True, "others": others} if others else {})}


def of_chunks(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By which code a run was computed, and in which steps.

    Returns:
        The last chunk's code; `dirty`, whether any was; `commits`, every code once; and `steps`,
        the cases of each chunk.
    """
    codes = [one["code"] for one in chunks]
    once = [one for n, one in enumerate(codes) if one not in codes[:n]]
    if len(once) > 1:
        shown = (f"{one['commit']}{' (changed)' if one['dirty'] else ''}" for one in once)
        log.warning("this run was computed by more than one commit: %s", ", ".join(shown))
    dirty = None if once[-1]["dirty"] is None else any(one["dirty"] for one in once)
    steps = [one["cases"] for one in chunks]
    return {**once[-1], "dirty": dirty, "commits": once, "steps": steps}


def _modules(node: Any) -> set[str]:
    """The modules of a config's classes."""
    if isinstance(node, Mapping):
        own = {str(node["_target_"]).rpartition(".")[0]} if "_target_" in node else set[str]()
        return own.union(*map(_modules, node.values()))
    return set()


def _decides_rows(entry: str) -> bool:
    """Whether what git says of a file, `XY PATH`, means that rows may not be the commit's."""
    if not entry.startswith("?? "):
        return True
    path = Path(entry[3:])
    return path.suffix == ".py" or (
        path.suffix in (".yaml", ".yml") and any(part in _CONFIGS for part in path.parts)
    )


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _forget_peak() -> None:
    """Let peaks be those from now on, where the system can do that."""
    import torch

    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory() -> int:
    """Largest resident set since it was forgotten, in bytes; on CUDA, what was allocated there.

    Where the system cannot forget it (all but Linux), the largest so far.
    """
    import torch

    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        return sum(int(torch.cuda.max_memory_allocated(device)) for device in devices)
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
