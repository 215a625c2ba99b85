"""The publishing benchmark on two runs: both arrive, once."""

from __future__ import annotations

from benchmarks.publishing import measure


def test_all_runs_are_published_once() -> None:
    found = measure(2)
    assert found.runs == 2
    assert found.requests > 10
