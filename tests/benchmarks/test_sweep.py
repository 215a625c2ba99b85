"""The sweep benchmark on a tiny model: both ways give the same rows."""

from __future__ import annotations

import os
import time

import pytest

from benchmarks import sweep
from benchmarks.sweep import compare, plan
from tests import forked


@pytest.fixture(autouse=True)
def launches_are_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task of the separate runs is a process as it is."""

    def timed(command: list[str]) -> tuple[float, str]:
        start = time.perf_counter()
        done = forked.run(command, cwd=sweep.ROOT, env=os.environ)
        assert done.returncode == 0, done.stderr
        return time.perf_counter() - start, done.stderr

    monkeypatch.setattr(sweep, "_timed", timed)


@pytest.mark.slow
def test_packed_and_separate_runs_have_the_same_rows() -> None:
    found = compare("tiny_gpt2", 2)
    assert found.rows_equal
    assert found.runs == 2
    assert found.ratio == pytest.approx(found.separate_seconds / found.packed_seconds)


def test_a_plan_without_slurm_is_cut_as_slurm_usually_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = plan(30)
    assert "30 runs: 30 to do" in str(found["runs"])
    assert found["arrays"] == "30 tasks in 1 job array: 30 (at most 30 at a time)"
