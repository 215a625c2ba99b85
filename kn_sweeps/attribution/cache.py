"""Attributions on disk, shared by methods, thresholds, figures and processes.

    <cache>/attributions/<first two letters>/<key>.safetensors

A file appears by rename and is never changed, so processes need no lock: at worst two compute the
same thing. What was not used for longest is deleted first.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from kn_sweeps.attribution.integrated_gradients import Attribution
from kn_sweeps.progress.saving import kept
from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.integrity import load_tensors, save_tensors, unless_damaged

log = logging.getLogger(__name__)

VERSION = 4
"""Part of every key: what another version of the project attributed is computed anew."""


_active: ContextVar[AttributionCache | None] = ContextVar("_active", default=None)


@dataclass(frozen=True)
class AttributionCache:
    """A folder of attributions.

    Attributes:
        folder: Where it is; created when something is put there.
        max_bytes: How large it may grow.
    """

    folder: Path
    max_bytes: int = 4 * 1024**3

    def get(self, key: str) -> Attribution | None:
        """What was put under `key`; None if it is not there, or damaged and moved aside."""
        path = self._path(key)
        found = unless_damaged(partial(load_tensors, path), "it is computed again")
        if found is None or set(found[0]) != {field.name for field in fields(Attribution)}:
            return None
        with suppress(OSError):  # another process has just deleted it
            os.utime(path)  # used just now
        tensors = found[0]
        value = float(tensors.pop("value"))
        return Attribution(value=value, **tensors)

    def put(self, key: str, attribution: Attribution) -> None:
        """Keep an attribution. Where that fails, a full disk say, it is logged and not kept."""
        tensors = {field.name: getattr(attribution, field.name) for field in fields(Attribution)}
        tensors["value"] = torch.tensor(attribution.value, dtype=torch.float64)
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, tensors, {})
            kept()
        except (OSError, SafetensorError) as error:
            log.warning("attributions are not cached: %s", error)

    def trim(self) -> None:
        """Delete what was not used for longest until the folder is not too large."""
        files = sorted(self._files(), key=lambda item: item[1].st_mtime, reverse=True)
        total = 0
        for path, status in files:
            total += status.st_size
            if total > self.max_bytes:
                with suppress(OSError):  # another process was faster
                    path.unlink()

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*/*"):
            with suppress(OSError):
                yield path, path.stat()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def users_cache(gib: float) -> AttributionCache | None:
    """The user's cache of attributions.

    Args:
        gib: How much it may take on disk, in GiB; 0 for no cache.
    """
    folder = cache_directory("attributions")
    return AttributionCache(folder, int(gib * 1024**3)) if gib > 0 else None


@contextmanager
def attributions_kept(cache: AttributionCache | None) -> Iterator[None]:
    """Let every `Attributor` in the block use `cache`; it is trimmed at the end."""
    token = _active.set(cache)
    try:
        yield
    finally:
        _active.reset(token)
        if cache is not None:
            cache.trim()


def active_cache() -> AttributionCache | None:
    """The cache of the block we are in, if any."""
    return _active.get()
