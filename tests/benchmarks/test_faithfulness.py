"""The benchmark of silenced neurons compares like with like, on a model that takes a second."""

from __future__ import annotations

import pytest

from benchmarks.faithfulness import compare
from kn_sweeps.cases import Query
from tests.conftest import random_lm


def test_both_ways_find_the_same_probabilities() -> None:
    lm = random_lm("llama")
    found = compare(lm, [lm.encode(Query("The capital of France is ", "."), "Paris")])
    assert found.largest_difference < 1e-6
    assert found.cells == 2 * 2 * 9
    assert found.ratio == pytest.approx(found.reference_seconds / found.seconds)
