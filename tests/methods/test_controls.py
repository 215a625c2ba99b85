"""A control has its method's shape and size, and none of its effect."""

from __future__ import annotations

from collections import Counter

import pytest

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import NeuronScale, RankOne
from kn_sweeps.methods.kn import KnowledgeNeurons
from kn_sweeps.methods.none import NoEdit
from kn_sweeps.methods.random import RandomControl
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel

QUERY = Query("The capital of France is ", ".", (15, 21))
CASE = Case("c0", "P36", "fact", Probe(QUERY, "Paris", "Rome", "edit"), (QUERY,))


def _layers(edit: NeuronScale) -> Counter[int]:
    return Counter(layer for layer, _ in edit.neurons)


def test_random_neurons_are_as_many_in_the_same_layers_and_others(some_lm: LanguageModel) -> None:
    kn = KnowledgeNeurons(quadrature="riemann", steps=2)
    located = kn.plan(some_lm, [CASE], seed=0).edits["c0"]
    moved = RandomControl(kn).plan(some_lm, [CASE], seed=0).edits["c0"]
    assert isinstance(located, NeuronScale)
    assert isinstance(moved, NeuronScale)
    assert _layers(moved) == _layers(located)
    assert not set(moved.neurons) & set(located.neurons)
    assert moved.factor == located.factor
    assert RandomControl(kn).intent == kn.intent


def test_a_random_update_has_the_same_layer_and_norm(some_lm: LanguageModel) -> None:
    rome = Rome(layer=1, steps=3, contexts=1, context_lengths=(2,))
    real = rome.plan(some_lm, [CASE], seed=0).edits["c0"]
    moved = RandomControl(rome).plan(some_lm, [CASE], seed=0).edits["c0"]
    assert isinstance(real, RankOne)
    assert isinstance(moved, RankOne)
    assert moved.layer == real.layer
    assert float(moved.u.norm() * moved.v.norm()) == pytest.approx(
        float(real.u.norm() * real.v.norm()), rel=1e-5
    )
    assert abs(float(moved.u @ real.u)) < 0.8 * float(moved.u.norm() * real.u.norm())


def test_a_control_is_drawn_from_the_seed_and_the_edit(some_lm: LanguageModel) -> None:
    control = RandomControl(KnowledgeNeurons(quadrature="riemann", steps=2))
    first, again, other = (control.plan(some_lm, [CASE], seed).edits["c0"] for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_none_is_the_identity(some_lm: LanguageModel) -> None:
    assert NoEdit().plan(some_lm, [CASE], seed=0).edits["c0"] == NeuronScale((), 1.0)
    assert not NoEdit().changes
