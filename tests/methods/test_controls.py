"""A control has its method's shape and size, and none of its effect."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import Dense, Joint, LowRank, NeuronScale, RankOne, is_identity
from kn_sweeps.methods.kn import KnowledgeNeurons
from kn_sweeps.methods.none import NoEdit
from kn_sweeps.methods.random import RandomControl, _moved
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
    first, again, other = (
        astuple(control.plan(some_lm, [CASE], seed).edits["c0"]) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_none_is_the_identity(some_lm: LanguageModel) -> None:
    assert is_identity(NoEdit().plan(some_lm, [CASE], seed=0).edits["c0"])
    assert not NoEdit().changes


def test_every_kind_of_edit_has_a_control_of_its_size(some_lm: LanguageModel) -> None:
    draw = torch.Generator().manual_seed(0)
    d_ff, d_model = some_lm.architecture.d_ff, some_lm.architecture.d_model
    low = LowRank(0, torch.randn(3, d_ff, generator=draw), torch.randn(3, d_model, generator=draw))
    dense = Dense(2, torch.randn(d_ff, d_model, generator=draw))
    moved = _moved(some_lm, Joint((low, dense)), draw)
    assert isinstance(moved, Joint)
    new_low, new_dense = moved.parts
    assert isinstance(new_low, LowRank)
    assert isinstance(new_dense, Dense)
    assert (new_low.layer, new_dense.layer) == (0, 2)
    torch.testing.assert_close(new_low.v.norm(dim=1), low.v.norm(dim=1))
    assert not torch.allclose(new_low.v, low.v)
    entries, moved_entries = (x.change.flatten() for x in (dense, new_dense))
    assert torch.equal(moved_entries.sort().values, entries.sort().values)
    assert not torch.equal(moved_entries, entries)
