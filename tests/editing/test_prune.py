"""All updates of a sequence together are held back where they outgrow the unedited weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing.prune import accumulated, restrained
from kn_sweeps.edits import NO_EDIT, Dense, Edit, Joint, RankOne, State, change_of, joined, parts
from kn_sweeps.interventions import applied
from kn_sweeps.methods.memit import Memit
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel
from tests.reference.pruning import pruned

BASE = 1.2
LAYERS = (0, 1)
# Steps so long that what is written outgrows W.
STRONG: dict[str, Any] = {
    "contexts": 0,
    "steps": 3,
    "kl_factor": 0.0,
    "learning_rate": 50.0,
    "clamp_norm": 1e4,
}


def _case(name: str, subject: str, new: str) -> Case:
    query = Query(f"The capital of {subject} is ", ".", (15, 15 + len(subject)))
    return Case(name, "P36", "fact", Probe(query, "a", new, "edit"), (query,))


CASES = [_case("c0", "France", "Rome"), _case("c1", "Peru", "Paris"), _case("c2", "India", "Lima")]


def _changes(edit: Edit) -> dict[int, NDArray[np.float64]]:
    found = {}
    for part in parts(joined([edit])):
        assert not isinstance(part, Joint)
        found[part.layer] = change_of(part).double().numpy()  # type: ignore[union-attr, arg-type]
    return found


def _expected(lm: LanguageModel, layer: int, *updates: Edit) -> NDArray[np.float64]:
    weights = lm.architecture.values(layer).double().numpy()
    whole = sum((_changes(one)[layer] for one in updates), np.zeros(weights.shape))
    return pruned(weights, whole, BASE)


def test_what_is_in_effect_is_the_restrained_sum_of_all_updates(some_lm: LanguageModel) -> None:
    draw = torch.Generator().manual_seed(0)
    largest = {n: torch.linalg.matrix_norm(some_lm.architecture.values(n), 2) for n in LAYERS}

    def update(size: float) -> Edit:
        rows = {n: [torch.randn(m, generator=draw) for m in (40, 24)] for n in LAYERS}
        every = {n: [row / row.norm() for row in pair] for n, pair in rows.items()}
        return Joint(tuple(RankOne(n, size * largest[n] * u, v) for n, (u, v) in every.items()))

    # Small ones first, which are left alone; then large ones, two of them at once.
    steps = [{"a": update(0.3)}, {"b": update(0.3)}, {"c": update(5), "d": update(2)}]
    steps += [{"e": update(0.2)}, {"f": update(9)}]
    state: State = {}
    before, raw = NO_EDIT, NO_EDIT
    for step in steps:
        with applied(some_lm, before):
            edits, left = restrained(some_lm, step, BASE, state, together=len(step) > 1)
        assert edits.keys() == step.keys()
        untouched = any(name in step for name in "ab")
        assert untouched != any(isinstance(part, Dense) for part in parts(joined(edits.values())))
        state = accumulated(state, left)
        before, raw = joined([before, *edits.values()]), joined([raw, *step.values()])
        for layer, change in _changes(before).items():
            expected = _expected(some_lm, layer, raw)
            np.testing.assert_allclose(change, expected, atol=1e-5 * np.abs(expected).max())
    assert restrained(some_lm, steps[0], None, {}, together=False) == (steps[0], {})


def test_methods_that_write_values_can_be_restrained(some_lm: LanguageModel) -> None:
    methods: list[Rome | Memit] = [Rome(layer=1, prune_base=BASE, **STRONG)]
    if some_lm.architecture.adds_as_is:
        methods.append(Memit((0, 1), 0.1, prune_base=BASE, **STRONG))
    for method in methods:
        plain = replace(method, prune_base=None)
        # Alone, at once, and one more behind those.
        alone, raw = (one.plan(some_lm, CASES[:2], 0) for one in (method, plain))
        state: State = {}
        first = method.plan(some_lm, CASES[:2], 0, together=True, state=state)
        unheld = plain.plan(some_lm, CASES[:2], 0, together=True, state=state)
        state = method.carried(state, first.state[0])
        before = joined(first.edits.values())
        with applied(some_lm, before):
            last = method.plan(some_lm, CASES[2:], 0, state=state)
            then = plain.plan(some_lm, CASES[2:], 0, state={})
        both = joined([before, *last.edits.values()])
        for held, updates in (
            (alone.edits["c1"], [raw.edits["c1"]]),
            (before, [joined(unheld.edits.values())]),
            (both, [joined(unheld.edits.values()), then.edits["c2"]]),
        ):
            for layer, change in _changes(held).items():
                expected = _expected(some_lm, layer, *updates)
                np.testing.assert_allclose(change, expected, atol=1e-4 * np.abs(expected).max())
                whole = sum(_changes(one)[layer] for one in updates)
                assert np.abs(whole - expected).max() > 0.1 * np.abs(expected).max()


def test_a_base_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="prune_base must be above 1, or null for none; got 1"):
        Rome(layer=1, prune_base=1.0)
    with pytest.raises(ValueError, match="prune_base must be above 1"):
        Memit((1,), 1.0, prune_base=0.5)
