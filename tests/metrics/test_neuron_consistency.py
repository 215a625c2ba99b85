"""Prompts of one edit agree, beyond what prompts of any edits do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.neuron_consistency import NeuronConsistency, by_chance, coarse, consistency
from tests.reference.neuron_consistency import score

EDITS, PROMPTS, NEURONS = 20, 4, 200


def _results(scores: dict[str, np.ndarray[Any, Any]], prompts: int = PROMPTS) -> Results:
    located = [
        {"edit": f"{source}{n}", "source": source, "certificates": [{}] * prompts}
        for source, rows in scores.items()
        for n in range(len(rows) // prompts)
    ]
    return Results(located=located, attributions=scores)


def _scores(shared: bool) -> np.ndarray[Any, Any]:
    """An edit's prompts each have five strong neurons, the same ones if they are shared."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-0.1, 0.1, (EDITS * PROMPTS, NEURONS))
    for n, row in enumerate(rows):
        draw = np.random.default_rng(n // PROMPTS if shared else n)
        row[draw.choice(NEURONS, 5, replace=False)] = draw.uniform(0.5, 1, 5)
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_the_score_is_that_of_sets(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(5, 30))
    assert consistency(coarse(rows, 0.4)) == pytest.approx(score(rows.tolist(), 0.4))


def test_its_ends() -> None:
    one, other = np.array([1, 2]), np.array([3])
    assert consistency([one, one]) == 1
    assert consistency([one, other]) == 0
    assert consistency([one]) is None
    assert consistency(coarse(np.full((2, 3), -1.0), 0.2)) is None


def test_shared_neurons_are_told_from_chance_and_others_are_not() -> None:
    found, chance = (
        NeuronConsistency()(_results({"P1": _scores(shared)})) for shared in (True, False)
    )
    assert found["neuron_consistency"].value == 1
    assert found["neurons_consistent"].value == 1
    assert (found["neuron_consistency_by_chance"].value or 1) < 0.2
    assert chance["neuron_consistency"].value == pytest.approx(
        chance["neuron_consistency_by_chance"].value, abs=0.1
    )
    assert (chance["neurons_consistent"].value or 0) <= 0.2
    assert found["neurons_consistent"].n == EDITS


def test_neurons_that_all_prompts_have_are_no_facts_own() -> None:
    rows = np.zeros((EDITS * PROMPTS, NEURONS))
    rows[:, :5] = 1
    found = NeuronConsistency()(_results({"P1": rows[:40], "P2": rows[40:]}))
    assert found["neuron_consistency"].value == found["neuron_consistency_by_chance"].value == 1
    assert found["neurons_consistent"].value == 0


def test_what_a_relation_has_in_common_is_no_facts_own() -> None:
    # Of five relations with four facts of three phrasings, each with neurons of its own.
    scores = {f"P{n}": np.tile(np.eye(5, NEURONS)[n], (12, 1)) for n in range(5)}
    results = _results(scores, prompts=3)
    assert NeuronConsistency()(results)["neurons_consistent"].value == 1
    assert NeuronConsistency(among="source")(results)["neurons_consistent"].value == 0


def test_a_source_keeps_its_edits_rows_apart() -> None:
    rows = _scores(shared=True)
    mixed = NeuronConsistency()(_results({"P1": rows[:40], "P2": rows[40:]}))
    assert mixed == NeuronConsistency()(_results({"P1": rows}))


def test_without_enough_edits_there_is_no_null() -> None:
    assert len(by_chance([[np.array([1])] * 3] * 2, 3, draws=50, seed=0)) == 0
    found = NeuronConsistency()(_results({"P1": _scores(shared=True)[:PROMPTS]}))
    assert found["neuron_consistency"].value == 1
    assert (found["neurons_consistent"].value, found["neurons_consistent"].n) == (None, 0)
    assert NeuronConsistency()(Results()) == {}


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\), got 1"):
        NeuronConsistency(threshold=1)
    with pytest.raises(ValueError, match="draws must be 20 or more"):
        NeuronConsistency(draws=19)
