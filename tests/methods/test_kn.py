"""Refinement, and what a plan of knowledge neurons covers."""

from __future__ import annotations

import copy
from dataclasses import astuple, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kn_sweeps.attribution.baselines import grad_x_act
from kn_sweeps.attribution.contrast import contrasted
from kn_sweeps.attribution.integrated_gradients import integrated_gradients
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import NeuronScale
from kn_sweeps.interventions import merge
from kn_sweeps.methods.kn import KnowledgeNeurons
from kn_sweeps.models.language_model import LanguageModel
from tests.reference.refining import published


def _fact(name: str, subject: str, old: str, new: str) -> Case:
    seen = tuple(
        Query(f"{start} {subject} is ", ".", (len(start) + 1, len(start) + 1 + len(subject)))
        for start in ("The capital of", "The city of", "a capital of")
    )
    return Case(name, "P36", "fact", Probe(seen[0], old, new, "edit"), seen)


def _pair(name: str, start: str, old: str, new: str, seen: tuple[Query, ...]) -> Case:
    return Case(name, "dna", "syntax", Probe(Query(start), old, new, "edit"), seen)


def test_a_shared_neuron_is_kept_and_a_private_one_is_not() -> None:
    scores = torch.zeros(4, 10)
    scores[:, 3] = 1.0
    scores[:, 6] = 0.9
    scores[torch.arange(4), torch.tensor([0, 1, 2, 4])] = 2.0
    neurons, tau, in_range = KnowledgeNeurons().refined(scores)
    assert (neurons, tau, in_range) == ([3, 6], 0.7, True)


def test_the_threshold_is_a_share_of_each_prompts_own_maximum() -> None:
    scores = torch.tensor([[100.0, 30.0, 1.0], [0.001, 0.0003, 0.00001]])
    assert KnowledgeNeurons(min_neurons=1).refined(scores)[0] == [0, 1]


def test_the_share_moves_until_the_number_is_in_range() -> None:
    scores = torch.zeros(10, 30)
    scores[:, :2] = 1.0
    scores[:8, 2:20] = 1.0  # 18 neurons in 80 % of the prompts: the share must rise above it
    neurons, tau, in_range = KnowledgeNeurons().refined(scores)
    assert sorted(neurons) == [0, 1]
    assert tau == pytest.approx(0.8)
    assert in_range
    scores = torch.eye(10)
    scores[:5, 0] = scores[:5, 1] = 1.0  # nothing is in 70 %: the share must fall below 50 %
    neurons, tau, in_range = KnowledgeNeurons().refined(scores)
    assert sorted(neurons) == [0, 1]
    assert tau < 0.6
    assert in_range


def test_when_no_share_fits_the_best_of_the_nearest_are_taken_and_it_is_said() -> None:
    scores = torch.arange(1.0, 31.0)[None] + 100  # one prompt: all 30 are in its coarse set
    neurons, tau, in_range = KnowledgeNeurons().refined(scores)
    assert neurons == [29, 28, 27, 26, 25]
    assert tau == pytest.approx(0.95)  # shares from 0.7 on leave all of them: it got this far
    assert not in_range


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=9, max_size=9), min_size=1))
def test_the_published_search_is_the_reference(rows: list[list[float]]) -> None:
    rows = [[*row[:-1], 1.0] for row in rows]  # every prompt has a largest score
    neurons, tau, in_range = KnowledgeNeurons(refine="published").refined(torch.tensor(rows))
    expected, share = published(rows)
    assert set(neurons) == expected
    assert tau == share
    assert in_range == (2 <= len(expected) <= 5)


def test_the_published_search_keeps_a_set_that_is_too_large() -> None:
    scores = torch.arange(1.0, 22.0)[None] + 100
    neurons, tau, in_range = KnowledgeNeurons(refine="published").refined(scores)
    assert len(neurons) == 21
    assert tau == pytest.approx(0.95)
    assert not in_range


def test_facts_stand_alone_and_pairs_share_a_form(some_lm: LanguageModel) -> None:
    method = KnowledgeNeurons(quadrature="riemann", steps=2)
    facts = [_fact("f0", "France", "Paris", "Rome"), _fact("f1", "Italy", "Rome", "Lima")]
    seen = (Query("Ann sees this "), Query("Bob sees that "))
    pairs = [
        _pair("p0", "Ann sees this ", "cat", "cats", seen),
        _pair("p1", "Bob sees that ", "cat", "cats", seen),
        _pair("p2", "Bob sees these ", "dogs", "dog", (Query("Bob sees these "),)),
    ]
    plan = method.plan(some_lm, [*facts, *pairs], seed=0)
    assert plan.edit_of == {
        "f0": "f0",
        "f1": "f1",
        "p0": "dna/cat",
        "p1": "dna/cat",
        "p2": "dna/dogs",
    }
    assert {len(found.cases) for found in plan.located} == {1, 2}
    width = some_lm.architecture.layers * some_lm.architecture.d_ff
    assert plan.attributions["P36"].shape == (6, width)
    assert plan.attributions["dna"].shape == (3, width)
    for edit in plan.edits.values():
        assert isinstance(edit, NeuronScale)
        assert edit.factor == 0
        assert 1 <= len(edit.neurons) <= 5


def test_answers_of_one_rule_are_located_together(some_lm: LanguageModel) -> None:
    seen = (Query("Ann sees ", " cat."), Query("Bob sees ", " dog."))
    cases = [
        Case(
            f"n/{n}",
            "singular",
            "syntax",
            Probe(Query(start, " cat."), old, new, "edit"),
            seen,
            seen_answers=("this", "that"),
        )
        for n, (start, old, new) in enumerate(
            [("Bob sees ", "this", "these"), ("Ann see ", "that", "those")]
        )
    ]
    method = KnowledgeNeurons()
    assert {method.group(case) for case in cases} == {"singular"}
    plan = method.plan(some_lm, cases, 0)
    expected = [some_lm.encode(q, a) for q, a in zip(seen, ("this", "that"), strict=True)]
    scores = [one.scores.flatten() for one in integrated_gradients(some_lm, expected)]
    torch.testing.assert_close(plan.attributions["singular"], torch.stack(scores))
    (found,) = plan.located
    assert found.cases == ("n/0", "n/1")
    with pytest.raises(ValueError, match="use locate=old"):
        KnowledgeNeurons(operation="enhance").plan(some_lm, cases, 0)


def test_a_plan_does_not_depend_on_its_company(some_lm: LanguageModel) -> None:
    method = KnowledgeNeurons(quadrature="riemann", steps=2)
    facts = [_fact("f0", "France", "Paris", "Rome"), _fact("f1", "Italy", "Rome", "Lima")]
    together = method.plan(some_lm, facts, seed=0)
    for fact in facts:
        alone, edit = (p.edits[fact.id] for p in (method.plan(some_lm, [fact], seed=0), together))
        assert astuple(alone) == astuple(edit)


def test_enhancing_replaces_and_locates_the_new_answer(some_lm: LanguageModel) -> None:
    fact = _fact("f0", "France", "Paris", "Rome")
    swapped = _fact("f0", "France", "Rome", "Paris")
    enhance = KnowledgeNeurons(operation="enhance", quadrature="riemann", steps=2)
    assert enhance.intent == "replace"
    assert KnowledgeNeurons().intent == "erase"
    (found,) = enhance.plan(some_lm, [fact], seed=0).located
    (same,) = (
        KnowledgeNeurons(quadrature="riemann", steps=2).plan(some_lm, [swapped], seed=0).located
    )
    assert found.neurons == same.neurons


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operation": "delete"}, "choose from suppress, enhance"),
        ({"threshold": 1.5}, r"threshold must be in \[0, 1\)"),
        ({"min_neurons": 6}, "min_neurons <= max_neurons"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnowledgeNeurons(**arguments)  # type: ignore[arg-type]


def test_an_update_exchanges_the_embeddings_of_the_answers(any_lm: LanguageModel) -> None:
    query = Query("The capital of France is ", ".", (15, 21))
    case = Case("c0", "P36", "fact", Probe(query, "Paris", "New Delhi", "edit"), (query,))
    kn = KnowledgeNeurons(operation="update", quadrature="riemann", steps=2)
    assert kn.intent == "replace"
    if any_lm.architecture.model_type == "electra":
        with pytest.raises(ValueError, match="embeddings, which have 16 numbers.*neurons write 24"):
            kn.plan(any_lm, [case], seed=0)
        return
    plan = kn.plan(any_lm, [case], seed=0)
    (located,) = plan.located
    merged = LanguageModel(copy.deepcopy(any_lm.model), any_lm.tokenizer)
    merge(merged, plan.edits["c0"])
    embedding = any_lm.architecture.embeddings.weight
    old, new = (any_lm.encode(query, text).target_ids for text in ("Paris", "New Delhi"))
    directions = [embedding[list(ids)].mean(0) for ids in (old, new)]
    old, new = (x / x.norm() for x in directions)
    for layer, index in located.neurons:
        slot = any_lm.architecture.values(layer)[index]
        expected = slot + slot.norm() * (8 * new - old)
        found = merged.architecture.values(layer)[index]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_named_neurons_are_scaled_without_a_search(some_lm: LanguageModel) -> None:
    method = KnowledgeNeurons(neurons=((1, 4), (2, 9)), where="read")
    plan = method.plan(some_lm, [_fact("f0", "France", "Paris", "Rome")], seed=0)
    assert {k: astuple(e) for k, e in plan.edits.items()} == {"f0": (((1, 4), (2, 9)), 0.0, "read")}
    assert not plan.located
    assert not plan.attributions
    with pytest.raises(ValueError, match="changes weights"):
        KnowledgeNeurons(operation="update", where="read")


def test_a_logit_difference_is_that_to_the_cases_other_answer(some_lm: LanguageModel) -> None:
    case = _fact("f", "France", "Paris", "Rome")
    settings = {"attribution": "grad_x_act", "measure": "logit_difference"}
    for operation, answers in (("suppress", ("Paris", "Rome")), ("enhance", ("Rome", "Paris"))):
        method = KnowledgeNeurons(operation=operation, **settings)  # type: ignore[arg-type]
        scores = method.plan(some_lm, [case]).attributions["P36"]
        prompts = [contrasted(some_lm, query, *answers) for query in case.seen]
        expected = grad_x_act(some_lm, prompts, measure="logit_difference")
        for row, one in zip(scores, expected, strict=True):
            torch.testing.assert_close(row, one.scores.flatten())


def test_rules_whose_prompts_have_answers_of_their_own_have_no_logit_difference(
    causal_lm: LanguageModel,
) -> None:
    case = replace(_fact("f", "France", "Paris", "Rome"), seen_answers=("Paris", "Lima", "Rome"))
    with pytest.raises(ValueError, match="none to compare them with"):
        KnowledgeNeurons(measure="logit_difference").plan(causal_lm, [case])
