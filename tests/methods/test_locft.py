"""Training breadth-first equals a plain loop over epochs of mini-batches, early stop included."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing import training
from kn_sweeps.edits import Dense, Joint, joined
from kn_sweeps.interventions import applied
from kn_sweeps.methods.locft import LocalisedFineTuning
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.seeding import shuffler

_FACTS = (
    ("France", "Paris", "New Delhi"),
    ("India", "New Delhi", "Lima"),
    ("Peru", "Lima", "Rome"),
    ("Italy", "Rome", "Paris"),
    ("that city", "Rome", "Lima"),
)
CASES = [
    Case(
        country, "P36", "fact", Probe(Query(f"The capital of {country} is ", "."), old, new, "edit")
    )
    for country, old, new in _FACTS
]
METHOD = LocalisedFineTuning(layer=1, epochs=3, learning_rate=1e-2, batch_size=2)


class ByHand:
    """The weight of a copy of the model, trained one answer at a time."""

    def __init__(self, lm: LanguageModel, method: LocalisedFineTuning) -> None:
        self._lm = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer)
        weight = self._lm.architecture.mlp_output(method.layer).weight
        assert isinstance(weight, torch.nn.Parameter)
        self._weight, self._before = weight.requires_grad_(), weight.detach().clone()
        self._adam = torch.optim.Adam([weight], lr=method.learning_rate)
        self.steps = self.passed = 0

    def loss(self, cases: list[Case]) -> torch.Tensor:
        return torch.stack([self._loss(case) for case in cases]).mean()

    def _loss(self, case: Case) -> torch.Tensor:
        lm = self._lm
        assert case.edit is not None
        encoded = lm.encode(case.edit.query, case.edit.new)
        if lm.kind == "causal":
            ids = torch.tensor([[*encoded.ids, lm.tokenizer.eos_token_id or 3]])
            start = encoded.target[0]
            log_probs = lm.model(ids).logits[0].log_softmax(-1)
            return -torch.stack(
                [log_probs[at - 1, ids[0, at]] for at in range(start, ids.shape[1])]
            ).mean()
        terms = []
        for at in range(*encoded.target):
            ids = torch.tensor([lm.masked(encoded.ids, range(at, encoded.target[1]))])
            terms.append(lm.model(ids).logits[0, at].log_softmax(-1)[encoded.ids[at]])
        return -torch.stack(terms).mean()

    def step(self, loss: torch.Tensor) -> None:
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self.steps += 1

    def change(self, lm: LanguageModel) -> torch.Tensor:
        change = (self._weight.detach() - self._before).float()
        return change if change.shape[0] == lm.architecture.d_ff else change.T


def _published(lm: LanguageModel, method: LocalisedFineTuning, enough: float) -> ByHand:
    """Epochs of shuffled mini-batches; one that is low enough is passed over, an epoch ends it."""
    trained = ByHand(lm, method)
    draw = shuffler(7, "epochs", *(case.id for case in CASES))
    for _ in range(method.epochs):
        order = draw.sample(range(len(CASES)), len(CASES))
        total = 0.0
        for start in range(0, len(CASES), method.batch_size):
            batch = [CASES[n] for n in order[start : start + method.batch_size]]
            loss = trained.loss(batch)
            total += loss.item() * len(batch)
            if loss >= enough:
                trained.step(loss)
            else:
                trained.passed += 1
        if total / len(CASES) < enough:
            break
    return trained


def _change(lm: LanguageModel, method: LocalisedFineTuning) -> torch.Tensor:
    plan = method.plan(lm, CASES, seed=7, together=True)
    first, *rest = plan.edits.values()
    assert isinstance(first, Dense)
    assert all(isinstance(one, Joint) and not one.parts for one in rest)
    assert joined(plan.edits.values()) is not None
    return first.change


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).norm() / other.norm()) < 1e-4


def test_a_batch_is_trained_in_epochs_of_mini_batches(
    some_lm: LanguageModel, weights_kept: Callable[[LanguageModel], None]
) -> None:
    weights_kept(some_lm)
    by_hand = _published(some_lm, METHOD, 1e-2)
    assert by_hand.steps == 9
    assert _same(_change(some_lm, METHOD), by_hand.change(some_lm))


def test_one_epoch_of_one_batch_is_one_step_on_the_mean_loss(some_lm: LanguageModel) -> None:
    method = replace(METHOD, epochs=1, batch_size=len(CASES))
    by_hand = ByHand(some_lm, method)
    by_hand.step(by_hand.loss(CASES))
    assert _same(_change(some_lm, method), by_hand.change(some_lm))


def test_it_stops_early_and_passes_over_what_is_learnt(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = replace(METHOD, epochs=60)
    enough = ByHand(some_lm, method).loss(CASES).item() / 2
    monkeypatch.setattr(training, "_ENOUGH", enough)
    by_hand = _published(some_lm, method, enough)
    assert by_hand.passed
    assert by_hand.steps + by_hand.passed < 3 * method.epochs
    assert _same(_change(some_lm, method), by_hand.change(some_lm))
    monkeypatch.setattr(training, "_ENOUGH", 0.0)
    assert not _same(_change(some_lm, method), by_hand.change(some_lm))


def test_alone_each_is_trained_as_if_there_were_no_others(some_lm: LanguageModel) -> None:
    edits = METHOD.plan(some_lm, CASES, seed=7).edits
    for case in CASES[:2]:
        by_hand = ByHand(some_lm, METHOD)
        for _ in range(METHOD.epochs):
            by_hand.step(by_hand.loss([case]))
        edit = edits[case.id]
        assert isinstance(edit, Dense)
        assert _same(edit.change, by_hand.change(some_lm))


def test_a_batch_learns_all_of_its_answers(some_lm: LanguageModel) -> None:
    method = replace(METHOD, epochs=150)
    with applied(some_lm, method.plan(some_lm, CASES, together=True)):
        for case in CASES:
            assert case.edit is not None
            (reply,) = ask(some_lm, [Question(case.edit.query, case.edit.old, case.edit.new)])
            assert reply.new.exact


def test_impossible_settings_are_refused(some_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="batch_size must be above 0, got 0"):
        LocalisedFineTuning(layer=0, batch_size=0)
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        LocalisedFineTuning(layer=9).plan(some_lm, CASES)
