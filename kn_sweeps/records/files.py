"""Writing files so that no reader ever sees half of one, and locks."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import math
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from kn_sweeps.progress.interruption import check

log = logging.getLogger(__name__)
_ATTEMPTS = 10
_PAUSE_S = 0.05
_SAY_EVERY = 1200
"""Attempts between two words that a lock is waited for: once a minute."""


def user_path(text: str) -> Path:
    """A path as people write it, `~` for the home directory.

    Raises:
        ValueError: If it begins with the `~` of a user that does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text}: there is no such home directory") from None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then rename it: `path` is whole or untouched.

    Raises:
        OSError: If it cannot be written, a full disk among the reasons; the file is named.
    """
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    temporary.touch(exist_ok=False)  # with the permissions that the umask leaves
    permissions = temporary.stat().st_mode
    try:
        write(temporary)
        temporary.chmod(permissions)  # safetensors makes a file for its owner alone
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # Some libraries raise their own kind of error, or do not name the file.
        number = error.errno if isinstance(error, OSError) else _system_error(error)
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def permitted_alike(folder: Path, like: str) -> None:
    """Give all files of a folder the permissions of one: safetensors makes its for the owner."""
    permissions = (folder / like).stat().st_mode
    for path in folder.iterdir():
        path.chmod(permissions)


def _system_error(error: BaseException) -> int | None:
    """The system's error number, as Rust's libraries put it into their messages."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as they are."""
    write_atomically(path, lambda at: at.write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically; NaN, which JSON does not have, becomes null."""
    text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def about_files(error: OSError) -> str:
    """What went wrong with a file, and what of it."""
    place = f" ({error.filename})" if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
    hint = ". Finished chunks are kept; the same command continues the run" if full else ""
    return f"{error.strerror or error}{place}{hint}"


class LockError(ValueError):
    """A lock file cannot be locked or read; its text says what to do."""


@contextmanager
def held(lock: Path, *, wait: bool = False) -> Iterator[IO[str] | None]:
    """Hold a lock file in this block: the system lets go of it whatever becomes of the process.

    The file says who holds it: `PROCESS HOST`.

    Args:
        lock: The file; its folder exists.
        wait: Wait for whoever holds it.

    Yields:
        The open file, which holds it as long as any process has it open; None where another
        process does (never with `wait`).

    Raises:
        LockError: If the file system refuses.
    """
    with _opened(lock, "a") as file:
        if not _taken(file, wait):
            yield None
            return
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield file


def is_held(lock: Path) -> bool:
    """Whether some process holds a lock file.

    Raises:
        LockError: If it cannot be found out.
    """
    if not lock.is_file():
        return False
    with _opened(lock, "r") as file:
        return not _tried(file, fcntl.LOCK_SH)


def holder(lock: Path) -> tuple[int, str] | None:
    """The process that holds a lock file, and its host; None if nobody does or it does not say."""
    if not is_held(lock):
        return None
    process, _, host = lock.read_text(encoding="utf-8", errors="replace").partition(" ")
    return (int(process), host) if process.isdigit() else None


def held_by(lock: Path) -> str:
    """Who holds a lock, and what to do if that cannot be true, for messages."""
    known = holder(lock)
    who = f"process {known[0]} on {known[1]}" if known else "another process"
    return f"{who} holds {lock}; if that machine is gone, delete that file"


def _opened(lock: Path, mode: str) -> IO[str]:
    try:
        return lock.open(mode, encoding="utf-8")
    except PermissionError as error:
        raise LockError(
            f"{lock} cannot be opened ({error.strerror}), so that nothing tells whether a process "
            "is at work there: let its owner look, or make the folder readable to you"
        ) from error


def _taken(file: IO[str], wait: bool) -> bool:
    # `is_held` takes it for an instant to find out: one refusal says nothing.
    for attempt in itertools.count():
        if _tried(file, fcntl.LOCK_EX):
            return True
        if attempt == _ATTEMPTS and not wait:
            return False
        if wait and attempt % _SAY_EVERY == _ATTEMPTS:
            log.info("waiting: %s", held_by(Path(file.name)))
        check()
        time.sleep(_PAUSE_S)
    raise AssertionError


def _tried(file: IO[str], kind: int) -> bool:
    """Try to lock an open file; False where another process holds it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise LockError(
            f"the file system of {file.name} refuses to lock it ({error.strerror}). Locks keep two "
            "processes from working on one run: put results_dir on a file system that has them "
            "(NFS with its lock service, Lustre mounted with -o flock)"
        ) from error
    return True


def finite(value: Any) -> Any:
    """A value as JSON can say it: NaN and infinities are None, keys are text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
