"""Counting the steps of what takes long.

Whatever takes long goes through its steps by `counted` (or `counting`): that stops it where the
process was told to, and tells whoever listens how far it is. Those who count know nothing of those
who listen; with nobody listening a count costs what `interruption.check` costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from kn_sweeps.progress.interruption import check

T = TypeVar("T")


@dataclass(eq=False)
class Count:
    """How far one loop is.

    Attributes:
        what: One of its steps, in the singular.
        total: How many there are at most: some loops end early. None where nobody knows.
        done: How many are over.
        began: When it began, in seconds of `time.monotonic`.
    """

    what: str
    total: int | None
    done: int = 0
    began: float = field(default_factory=time.monotonic)


Listener = Callable[[Sequence[Count]], None]
"""Is told the counts that are under way, the outermost first, whenever one begins a step."""


@dataclass
class _Heard:
    listener: Listener
    counts: list[Count] = field(default_factory=list)


_heard: ContextVar[_Heard | None] = ContextVar("_heard", default=None)


def counted(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, each counted when it begins.

    Args:
        items: What a loop goes through.
        what: One of them, in the singular.

    Raises:
        Interrupted: If the process was told to stop.
    """
    with counting(what, len(items)) as tell:
        for done, item in enumerate(items):
            tell(done)
            yield item


@contextmanager
def counting(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Count where steps are no items; gives what is to be told how many of `total` are done."""
    heard = _heard.get()
    if heard is None:
        yield lambda _done: check()
        return
    count = Count(what, total)
    heard.counts.append(count)

    def tell(done: int) -> None:
        check()
        count.done = done
        heard.listener(heard.counts)

    try:
        yield tell
    finally:
        heard.counts.remove(count)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let `listener` hear what is counted in this block."""
    token = _heard.set(_Heard(listener))
    try:
        yield
    finally:
        _heard.reset(token)
