"""The tracing benchmark compares like with like, on a model that takes a second."""

from __future__ import annotations

import pytest

from benchmarks.tracing import compare
from kn_sweeps.cases import Query
from tests.conftest import random_lm


def test_both_ways_find_the_same_effects() -> None:
    lm = random_lm("llama")
    query = Query("The capital of France is ", ".", (15, 21))
    found = compare(lm, [lm.encode(query, "Paris")])
    assert found.largest_difference < 1e-6 + 1e-3 * found.largest_effect
    assert found.ratio == pytest.approx(
        found.reference_seconds_per_prompt / found.seconds_per_prompt
    )
