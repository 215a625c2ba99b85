"""The memory benchmark counts and measures the same work, on a model that takes a second."""

from __future__ import annotations

from benchmarks.measuring import configured_model
from benchmarks.memory import Compared, compare, some_cases, work_of
from kn_sweeps.methods.none import NoEdit


def test_what_is_counted_is_of_the_cases_that_are_measured() -> None:
    lm = configured_model("tiny_gpt2")
    cases = some_cases(lm, 2)
    work = work_of(lm, cases)
    assert (work.cases, work.batch_size) == (2, 64)
    assert work.tokens >= work.behind >= 1
    found = compare(lm, lm.shape, NoEdit(), cases)
    assert found.counted > 0
    assert found.weights == lm.shape.weights


def test_a_ratio_is_of_all_that_is_there() -> None:
    assert Compared(counted=50, measured=100, weights=100).ratio == 0.75
