"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, line ends as they are."""
    write_atomically(path, lambda at: at.write_text(text, encoding="utf-8", newline=""))


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically; NaN, which JSON does not have, becomes null."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
