"""The editing benchmark compares like with like, on a model that takes a second."""

from __future__ import annotations

import pytest

from benchmarks.editing import compare
from benchmarks.operations import operations
from benchmarks.sequences import sequence
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.methods.rome import Rome
from tests.conftest import random_lm

QUERIES = [
    Query("The capital of France is ", ".", (15, 21)),
    Query("The city of Peru is in ", ".", (12, 16)),
]


def _cases() -> list[Case]:
    probes = [Probe(query, "Paris", "New Delhi", "rephrase") for query in QUERIES]
    return [
        Case(
            f"c{n}",
            "P36",
            "fact",
            Probe(query, "Paris", "Rome", "edit"),
            (query,),
            tuple(probes),
            Query("France is a ", "", (0, 6)),
        )
        for n, query in enumerate(QUERIES)
    ]


def test_both_ways_find_the_same_values_and_answers() -> None:
    method = Rome(layer=1, steps=4, contexts=1, context_lengths=(2, 3))
    found = compare(random_lm("llama"), _cases(), 2, method)
    assert found.answers_equal
    assert found.v_star_max_relative_error < 1e-4
    assert found.edit_ratio == pytest.approx(found.reference_edit_seconds / found.edit_seconds)
    assert (found.edits, found.reference_edits, found.contexts) == (2, 2, 3)


def test_one_more_edit_is_timed_behind_none_and_behind_some() -> None:
    cases = [
        Case(f"c{n}", "P36", "fact", Probe(query, "Paris", "Rome", "edit"), (query,))
        for n, query in enumerate(QUERIES)
    ]
    method = Rome(layer=1, steps=2, contexts=0, kl_factor=0.0)
    first, later = sequence(random_lm("gpt2"), cases, method, (0, 30))
    assert (first["edits before"], first["times the first"]) == (0, 1)
    assert later["edits before"] == 30


def test_counted_work_grows_by_the_step() -> None:
    method = Rome(layer=1, steps=4, contexts=1, context_lengths=(2, 3))
    ours, published = operations(random_lm("llama"), _cases(), method)
    assert (ours["way"], published["way"]) == ("together", "published loop")
    assert ours["times the first"] == 1
    assert published["times the first"] > 1  # type: ignore[operator]
    for row in (ours, published):
        before, step, every = (row[f"{part}, GFLOP"] for part in ("before", "a step", "all steps"))
        assert every == pytest.approx(before + 3 * step)  # type: ignore[operator]
