"""Loops tell how far they are, and never what they compute."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from kn_sweeps.progress.counting import Count, counted, counting, heard_by
from kn_sweeps.progress.interruption import Interrupted, listening
from kn_sweeps.progress.pace import told


def _deaf(_counts: Sequence[Count]) -> None:
    pass


def test_nested_loops_are_heard_the_outermost_first() -> None:
    heard: list[list[tuple[str, int, int]]] = []

    def listener(counts: Sequence[Count]) -> None:
        heard.append([(one.what, one.done, one.total) for one in counts])

    with heard_by(listener):
        for _ in counted("ab", "batch"):
            for _ in counted(range(2), "step"):
                pass
    inner = [[("batch", b, 2), ("step", s, 2)] for b in range(2) for s in range(2)]
    assert heard == [[("batch", 0, 2)], *inner[:2], [("batch", 1, 2)], *inner[2:]]


def test_a_loop_that_is_left_is_counted_no_longer() -> None:
    under_way: list[str] = []

    def listener(counts: Sequence[Count]) -> None:
        under_way[:] = [one.what for one in counts]

    with heard_by(listener):
        for _ in counted(range(9), "left by break"):
            break
        with pytest.raises(ZeroDivisionError):
            _ = [1 / item for item in counted(range(9), "left by an error")]
        with counting("text", 3) as tell:
            tell(2)
    assert under_way == ["text"]


def test_nobody_needs_to_listen_and_items_stay_what_they_are() -> None:
    things = [object(), object()]
    assert list(counted(things, "thing")) == things
    with heard_by(_deaf):
        assert list(counted(things, "thing")) == things
    with counting("thing", 2) as tell:
        tell(1)


@pytest.mark.parametrize("heard", [True, False])
def test_a_signal_stops_what_is_counted(heard: bool) -> None:
    def loop() -> None:
        for item in counted(range(9), "step"):
            assert item < 3
            if item == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with listening(), heard_by(_deaf) if heard else nullcontext(), pytest.raises(Interrupted):
        loop()


def test_counts_in_words_have_the_pace_of_the_innermost_and_the_time_left_of_all() -> None:
    batch, step = Count("batch of edits", 2, 1, began=0.0), Count("step", 20, 10, began=70.0)
    assert told([batch, step], 90.0) == "batch of edits 2 of 2, step 11 of 20, 30.0/min, 00:20 left"
    # One step of 10 s after a beginning of 50 s: 10 s for this batch, and 70 s for the next.
    batch, step = Count("batch", 2, 0, began=0.0), Count("step", 2, 1, began=50.0)
    assert told([batch, step], 60.0) == "batch 1 of 2, step 2 of 2, 6.0/min, 01:20 left"
    # Nothing tells of this step yet, but the one before it does.
    batch, step = Count("batch", 3, 1, began=0.0), Count("step", 20, 0, began=60.0)
    assert told([batch, step], 60.0) == "batch 2 of 3, step 1 of 20, 02:00 left"
    assert told([Count("batch", 1, 0, 0.0), Count("step", 20, 10, 0.0)], 5.0) == (
        "step 11 of 20, 2.0/s, 00:05 left"
    )
    assert told([Count("step", 20, 0, 0.0)], 5.0) == "step 1 of 20"
    assert told([Count("batch of questions", 1, 0, 0.0)], 5.0) == "batch of questions"
    assert told([Count("text", None, 30, 0.0)], 5.0) == "text 31, 6.0/s"
