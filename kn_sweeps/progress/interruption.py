"""Being told to stop.

A signal handler only sets a flag. Whatever takes long calls `check` between its steps and is left
by `Interrupted`, which is no `Exception`: code that goes on after errors does not go on after it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPPED = "cancelled"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """The process was told to stop; its text says why, as a run's status does."""


_received: int | None = None


def check() -> None:
    """Stop here if the process was told to.

    Raises:
        Interrupted: If it was.
    """
    if _received is not None:
        raise Interrupted(_reason(_received))


def _stopped(_: int) -> str:
    return STOPPED


_reason: Callable[[int], str] = _stopped


@contextmanager
def listening(reason: Callable[[int], str] = _stopped) -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and SIGUSR2 stop the work in this block.

    Args:
        reason: What a signal means, given its number; asked when the work stops.

    Outside the main thread, which alone can handle signals, nothing changes.
    """
    global _received, _reason
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _note) for number in SIGNALS}
    reason, _reason = _reason, reason
    try:
        yield
    finally:
        _received, _reason = None, reason
        for number, handler in before.items():
            signal.signal(number, handler)


def _note(number: int, _: object) -> None:
    global _received
    # The first says why: what follows a warning that could not be heeded is only its consequence.
    if _received is None:
        _received = number
