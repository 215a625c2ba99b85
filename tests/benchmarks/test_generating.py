"""The benchmark of free answers compares like with like, on a model that takes a second."""

from __future__ import annotations

from benchmarks.generating import compare
from kn_sweeps.cases import Query
from kn_sweeps.models.generating import Prompt
from tests.conftest import random_lm


def test_both_ways_answer_alike() -> None:
    lm = random_lm("llama")
    found = compare(lm, [Prompt(Query("The capital of France is ")), Prompt(Query("Ann sees "))])
    assert (found.answers, found.equal) == (2, 1)
