"""When a sequence is looked at on its way, and which of its earlier edits are asked then."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import torch

from kn_sweeps.cases import Case
from kn_sweeps.seeding import generator

Every = int | tuple[int, ...]
"""After so many edits each time, or after these numbers of edits."""


def crossed(every: Every | None, before: int, now: int) -> bool:
    """Whether a sequence that had made `before` edits has come to a checkpoint with `now`."""
    if every is None:
        return False
    if isinstance(every, int):
        return now // every > before // every
    return any(before < number <= now for number in every)


class Sample:
    """A fixed sample of the cases of a sequence that have an edit so far.

    Every case has a number, drawn from the seed and its id alone; those with the lowest are asked.
    So a case that is asked at one checkpoint is asked at the next, unless it makes room for one
    that was edited in between, and all cases so far are equally likely.
    """

    def __init__(self, size: int, seed: int) -> None:
        """Begin with none; `size` cases are asked at most."""
        self._size, self._seed = size, seed
        self._cases: list[tuple[float, int, Case]] = []
        self._seen = 0

    def add(self, cases: Iterable[Case]) -> None:
        """Take cases that were edited now."""
        for case in cases:
            draw = float(torch.rand((), generator=generator(self._seed, "checkpoint", case.id)))
            self._cases.append((draw, self._seen, case))
            self._seen += 1
        self._cases = heapq.nsmallest(self._size, self._cases)

    def cases(self) -> list[Case]:
        """Those that are asked, in the order in which they were edited."""
        return [case for _, _, case in sorted(self._cases, key=lambda one: one[1])]
