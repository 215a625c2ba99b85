"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kn_sweeps.interruption import check

log = logging.getLogger(__name__)
_ATTEMPTS = 10


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then rename it: `path` is whole or untouched.

    Raises:
        OSError: If it cannot be written, a full disk among the reasons; the file is named.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.rename(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # Some libraries raise their own kind of error, or do not name the file.
        number = error.errno if isinstance(error, OSError) else _system_error(error)
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _system_error(error: BaseException) -> int | None:
    """The system's error number, as Rust's libraries put it into their messages."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as they are."""
    write_atomically(path, lambda at: at.write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically; NaN, which JSON does not have, becomes null."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def about_files(error: OSError) -> str:
    """What went wrong with a file, and what of it."""
    place = f" ({error.filename})" if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    hint = ". Finished chunks are kept; the same command continues the run" if full else ""
    return f"{error.strerror or error}{place}{hint}"


@contextmanager
def held(lock: Path, *, wait: bool = False) -> Iterator[IO[str] | None]:
    """Hold a lock file in this block: the system lets go of it whatever becomes of the process.

    Args:
        lock: The file; its folder exists.
        wait: Wait for whoever holds it.

    Yields:
        The open file, which holds it as long as any process has it open; None where another
        process does (never with `wait`).
    """
    with lock.open("a") as file:
        yield file if _taken(file, wait) else None


def is_held(lock: Path) -> bool:
    """Whether some process holds a lock file."""
    if not lock.is_file():
        return False
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _taken(file: IO[str], wait: bool) -> bool:
    # `is_held` takes it for an instant to find out: one refusal says nothing.
    for attempt in itertools.count():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt == _ATTEMPTS:
                if not wait:
                    return False
                log.info("waiting for another process to release %s", file.name)
            check()
            time.sleep(0.05)
        else:
            return True
    raise AssertionError


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
