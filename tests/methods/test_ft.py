"""Fine-tuning obeys its constraint and equals training the weight itself."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing import training
from kn_sweeps.edits import Dense, Edit, Joint
from kn_sweeps.interventions import applied
from kn_sweeps.methods.ft import FineTuning
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.language_model import LanguageModel

QUERY = Query("The capital of France is ", ".", (15, 21))
OTHER = Query("Ann sees ", " cat.")
CASES = [
    Case("c0", "P36", "fact", Probe(QUERY, "Paris", "New Delhi", "edit"), (QUERY,)),
    Case("c1", "dna", "syntax", Probe(OTHER, "this", "these", "edit"), (OTHER,)),
]


def _trained(lm: LanguageModel, case: Case, method: FineTuning) -> torch.Tensor:
    """Train the parameter of a copy of the model, one row at a time."""
    copied = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer)
    weight = copied.architecture.mlp_output(method.layer).weight
    assert isinstance(weight, torch.nn.Parameter)
    before = weight.detach().clone()
    weight.requires_grad_(True)
    adam = torch.optim.Adam([weight], lr=method.learning_rate)
    assert case.edit is not None
    encoded = copied.encode(case.edit.query, case.edit.new)
    for _ in range(method.steps):
        terms = []
        for row in copied.rows(encoded):
            log_probs = copied.model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
            terms += [log_probs[p, t] for p, t in zip(row.positions, row.tokens, strict=True)]
        loss = -torch.stack(terms).mean()
        if loss < 0.01:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            epsilon = method.norm_constraint
            assert epsilon is not None
            weight.copy_(weight.clamp(before - epsilon, before + epsilon))
    change = weight.detach() - before
    return change if change.shape[0] == lm.architecture.d_ff else change.T


def test_it_equals_training_the_weight(unlike_lm: LanguageModel) -> None:
    method = FineTuning(layer=1, steps=5, learning_rate=1e-2, norm_constraint=3e-2)
    edits = method.plan(unlike_lm, CASES, seed=0).edits
    for case in CASES:
        edit = edits[case.id]
        assert isinstance(edit, Dense)
        expected = _trained(unlike_lm, case, method).float()
        assert float((edit.change - expected).norm() / expected.norm()) < 1e-4
        assert float(edit.change.abs().max()) <= 3e-2 * (1 + 1e-6)


def test_it_makes_the_new_answer_likelier(
    some_lm: LanguageModel, weights_kept: Callable[[LanguageModel], None]
) -> None:
    weights_kept(some_lm)
    method = FineTuning(layer=1, steps=30, learning_rate=1e-2, norm_constraint=None)
    question = Question(QUERY, "Paris", "New Delhi")
    (before,) = ask(some_lm, [question])
    with applied(some_lm, method.plan(some_lm, CASES[:1], seed=0).edits["c0"]):
        (after,) = ask(some_lm, [question])
    assert after.new.log_prob > before.new.log_prob + 1


def test_what_is_answered_well_enough_is_not_trained(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = FineTuning(layer=1, steps=40, learning_rate=1e-2, norm_constraint=None)
    losses = [-_score(some_lm, case, Joint(())) for case in CASES]
    between = sum(losses) / 2
    monkeypatch.setattr(training, "_ENOUGH", between)  # one is below it, the other above
    edits = list(method.plan(some_lm, CASES, seed=0).edits.values())
    for case, edit, loss in zip(CASES, edits, losses, strict=True):
        assert isinstance(edit, Dense)
        if loss < between:
            assert not edit.change.any()
        else:
            # It went on until it was below, and no further than a step takes it.
            assert between / 2 < -_score(some_lm, case, edit) < between


def _score(lm: LanguageModel, case: Case, edit: Edit) -> float:
    """Mean log-probability of a token of the new answer."""
    assert case.edit is not None
    with applied(lm, edit):
        (reply,) = ask(lm, [Question(case.edit.query, case.edit.old, case.edit.new)])
    return reply.new.log_prob / len(reply.new.ids)


def test_a_batch_is_trained_as_one(some_lm: LanguageModel) -> None:
    method = FineTuning(layer=1, steps=3, learning_rate=1e-2)
    first, second = method.plan(some_lm, CASES, seed=0, together=True).edits.values()
    assert isinstance(first, Dense)
    assert isinstance(second, Joint)
    assert not second.parts
    alone = method.plan(some_lm, CASES[:1], seed=0).edits["c0"]
    assert isinstance(alone, Dense)
    assert not torch.allclose(first.change, alone.change)


def test_impossible_settings_are_refused(some_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="norm_constraint must be above 0"):
        FineTuning(layer=0, norm_constraint=0.0)
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        FineTuning(layer=9).plan(some_lm, CASES, seed=0)
