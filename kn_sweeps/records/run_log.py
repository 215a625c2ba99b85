"""The log of a run in its directory, with the traceback of what ended it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)


class RunLog(logging.FileHandler):
    """A log that a full disk cuts short without a word: the run's own error has it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing, of an error of the system."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close it, though what is left cannot be written."""
        with suppress(OSError):
            super().close()


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append the package's log to a file, with the traceback of what ends the block."""
    handler = RunLog(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("kn_sweeps")
    package.addHandler(handler)
    try:
        yield
    except BaseException:
        # To the file only: the console gets one message from whoever called.
        error = sys.exc_info()
        handler.handle(log.makeRecord(log.name, logging.ERROR, "", 0, "ended early", (), error))
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
