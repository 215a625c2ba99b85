"""How often this process saved something that a process after it goes on from.

What is stopped before it saved anything would get no further the next time either.
"""

from __future__ import annotations

_kept = 0


def kept() -> None:
    """Note that something was saved that a process after this one goes on from."""
    global _kept
    _kept += 1


def how_often_kept() -> int:
    """How often this process saved something that the next one goes on from."""
    return _kept
