"""How far a step of a run is, for people: what is being done, how fast, and the time left.

Counts (`counting`) become one line. On a terminal it stands beside the bar of cases; every few
seconds it goes into the run's status, and now and then into its log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

from kn_sweeps.progress.counting import Count, heard_by

log = logging.getLogger(__name__)

_LINE_S, _STATUS_S, _LOG_S = 0.5, 5.0, 60.0
_FIRST_LOG_S = 10.0


def pace(speed: float) -> str:
    """Steps a second, or a minute where they are slow."""
    return f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min"


def told(counts: Sequence[Count], now: float) -> str:
    """Counts in words: every loop's step, the pace of the innermost, the time left.

    Args:
        counts: The outermost first, one at least.
        now: Seconds of `time.monotonic`.
    """
    parts = [_step(one) for one in counts if one.total != 1]
    inner = counts[-1]
    if inner.done and now > inner.began:
        parts.append(pace(inner.done / (now - inner.began)))
    left: float | None = None
    for one in reversed(counts):
        left = _left(one, left, now)
    if left is not None:
        parts.append(f"{tqdm.format_interval(left)} left")
    return ", ".join(parts or [inner.what])


def _step(one: Count) -> str:
    if one.total is None:
        return f"{one.what} {one.done + 1}"
    return f"{one.what} {min(one.done + 1, one.total)} of {one.total}"


def _left(one: Count, inside: float | None, now: float) -> float | None:
    """Seconds a loop has left, given those of the step it is in; None while nothing tells."""
    if one.total is None:
        return None
    passed, steps = now - one.began, float(one.done)
    if inside is not None:
        # What is left of this step counts as done, so that its slow beginning is not forgotten.
        passed, steps = passed + inside, steps + 1
    if not steps:
        return None
    return (inside or 0.0) + max(0.0, one.total - steps) * passed / steps


class _Shown:
    """Hears counts and shows them, each place as often as it bears."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._bar: tqdm[Any] | None = None
        now = time.monotonic()
        self._lined, self._written, self._logged = now, now, now + _FIRST_LOG_S - _LOG_S

    def __call__(self, counts: Sequence[Count]) -> None:
        now = time.monotonic()
        if now - self._lined < _LINE_S:
            return
        self._lined = now
        text = told(counts, now)
        if self._bar is None:
            self._bar = tqdm(bar_format="  {desc}", leave=False, disable=None)
        self._bar.set_description_str(text)
        if now - self._written >= _STATUS_S:
            self._written = now
            # What cannot be written now is told the next time; rows matter more.
            with suppress(OSError):
                self._write(text)
        if now - self._logged >= _LOG_S:
            self._logged = now
            # A terminal has the line already; elsewhere the log is all that moves.
            log.log(logging.INFO if self._bar.disable else logging.DEBUG, "%s", text)

    def close(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.close()


@contextmanager
def shown(write: Callable[[str], None]) -> Iterator[None]:
    """Show people how far what is counted in this block is.

    Args:
        write: Keeps a line where others can read it; called every few seconds at most.
    """
    line = _Shown(write)
    try:
        with heard_by(line):
            yield
    finally:
        line.close()
