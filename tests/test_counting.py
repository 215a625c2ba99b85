"""Loops tell how far they are, and never what they compute."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest

from kn_sweeps.counting import Count, counted, counting, heard_by
from kn_sweeps.interruption import Interrupted, listening
from kn_sweeps.pace import told


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
        with pytest.raises(RuntimeError):
            for _ in counted(range(9), "left by an error"):
                raise RuntimeError
        with counting("text", 3) as tell:
            tell(2)
    assert under_way == ["text"]


def test_nobody_needs_to_listen_and_items_stay_what_they_are() -> None:
    things = [object(), object()]
    assert list(counted(things, "thing")) == things
    with heard_by(lambda counts: None):
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

    with listening(), pytest.raises(Interrupted):
        if heard:
            with heard_by(lambda counts: None):
                loop()
        loop()


def test_counts_in_words_have_the_pace_of_the_innermost_and_the_time_left_of_all() -> None:
    batch, step = Count("batch of edits", 2, 1, began=0.0), Count("step", 20, 10, began=70.0)
    # Three quarters took 90 s; ten steps took 20 s.
    assert told([batch, step], 90.0) == "batch of edits 2 of 2, step 11 of 20, 30.0/min, 00:30 left"
    assert told([Count("batch", 1, 0, 0.0), Count("step", 20, 10, 0.0)], 5.0) == (
        "step 11 of 20, 2.0/s, 00:05 left"
    )
    assert told([Count("step", 20, 0, 0.0)], 5.0) == "step 1 of 20"
    assert told([Count("batch of questions", 1, 0, 0.0)], 5.0) == "batch of questions"
    # A text source may hold more or fewer texts than were asked for.
    assert told([Count("text", 0, 0, 0.0)], 5.0) == "text"
