"""What is in files, told by hashes of every byte; a hash is kept until its file changes.

A file is hashed in blocks, many at a time, so that a large model takes about as long as reading it.
What a large file's hash was is kept in `<cache>/hashes` under its path and believed only while
device, inode, size and both times of change are the same. A file that changed within `_RACY_S`
seconds before it was hashed could change again without its times showing it, so its hash is not
kept (git treats its index in the same way).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from kn_sweeps.records.cache import cache_directory
from kn_sweeps.records.files import write_json
from kn_sweeps.threads import cores

log = logging.getLogger(__name__)

_BLOCK = 64 * 2**20
_PIECE = 2**20
_KEPT = 8 * 2**20
"""Smaller files are read again: that is as fast as looking up their hashes."""
_TOLD = 256 * 2**20
"""So many bytes to be hashed are worth a log line."""
_RACY_S = 5.0

Stamp = list[int]


def digests(paths: Iterable[Path]) -> list[str]:
    """A hash of each file's content, 64 hex digits; equal for equal content only.

    Raises:
        OSError: If one cannot be read.
        ValueError: If one changes while it is read.
    """
    every = [path.resolve() for path in paths]
    known = {path: _recalled(path) for path in every}
    missing = [path for path, digest in known.items() if digest is None]
    size = sum(path.stat().st_size for path in missing)
    if size >= _TOLD:
        log.info("hashing %.1f GiB of %s", size / 2**30, missing[0].parent)
    began = time.perf_counter()
    known |= _computed(missing)
    if size >= _TOLD:
        taken = time.perf_counter() - began
        log.info("hashed in %.1f s; done again only for files that change", taken)
    return [str(known[path]) for path in every]


def _computed(paths: Sequence[Path]) -> dict[Path, str]:
    """Hash some files, all blocks of all of them in parallel, and keep what can be kept."""
    before = {path: _stamp(path) for path in paths}
    started = time.time()
    blocks = [(path, at) for path in paths for at in range(0, before[path][2], _BLOCK)]
    # hashlib lets other threads run while it hashes.
    with ThreadPoolExecutor(min(8, cores())) as pool:
        hashes = list(pool.map(_block, blocks))
    found: dict[Path, str] = {}
    for path in paths:
        if _stamp(path) != before[path]:
            raise ValueError(f"{path} changed while it was read; try again once it is complete")
        own = [one for (where, _), one in zip(blocks, hashes, strict=True) if where == path]
        whole = hashlib.sha256(str(before[path][2]).encode())
        for one in own:
            whole.update(one)
        found[path] = whole.hexdigest()
        _keep(path, before[path], found[path], started)
    return found


def _block(where: tuple[Path, int]) -> bytes:
    path, start = where
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = _BLOCK
        while left and (piece := file.read(min(left, _PIECE))):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()


def _stamp(path: Path) -> Stamp:
    """What changes when a file does: a time of change can be set back, the inode's cannot."""
    about = path.stat()
    return [about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _place(path: Path) -> Path:
    name = hashlib.sha256(str(path).encode()).hexdigest()[:32]
    return cache_directory("hashes") / f"{name}.json"


def _recalled(path: Path) -> str | None:
    """The hash a file had when it was last hashed; None if it may have changed since."""
    stamp = _stamp(path)
    if stamp[2] < _KEPT:
        return None
    try:
        entry = json.loads(_place(path).read_text(encoding="utf-8"))
        same = entry["path"] == str(path) and entry["stamp"] == stamp
        digest = entry["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return digest if same and re.fullmatch("[0-9a-f]{64}", str(digest)) else None


def _keep(path: Path, stamp: Stamp, digest: str, started: float) -> None:
    """Keep a hash, unless the file is small or changed just before it was read."""
    _, _, size, *times = stamp
    quiet = min(times) > 0 and max(times) / 1e9 < started - _RACY_S
    if size < _KEPT or not quiet:
        return
    place = _place(path)
    with suppress(OSError):  # it is computed again, then
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"path": str(path), "stamp": stamp, "digest": digest})
