"""ROME's update solves its equation and equals the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import kn_sweeps.editing.values as values_module
from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing.contexts import sampled_contexts
from kn_sweeps.editing.requests import Request
from kn_sweeps.editing.values import KlPosition, optimised
from kn_sweeps.interventions import applied, recorded
from kn_sweeps.methods.base import Method
from kn_sweeps.methods.memit import Memit
from kn_sweeps.methods.rome import KeyMode, Rome
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.stepping import CannotStepError
from tests.reference import rome as reference

QUERY = Query("The capital of France is ", ".", (15, 21))
ESSENCE = Query("France is a ", "", (0, 6))
CONTEXTS = ["", "Ann sees this cat. ", "Bob sees these dogs . Ann is in Peru. "]


LONGER = Query("The city France is in the capital of ", " .", (9, 15))


def _case(new: str = "Rome", name: str = "c0", query: Query = QUERY) -> Case:
    return Case(name, "P36", "fact", Probe(query, "Paris", new, "edit"), (query,), (), ESSENCE)


def _reference_prompt(lm: LanguageModel, query: Query, target: str) -> reference.Prompt:
    encoded = lm.encode(query, target)
    if lm.kind == "causal":
        return reference.Prompt(torch.tensor([encoded.prompt_ids]), encoded.subject_last)
    ids = torch.tensor([encoded.ids])
    masks = tuple(range(*encoded.target))
    ids[0, list(masks)] = lm.tokenizer.mask_token_id
    return reference.Prompt(ids, encoded.subject_last, masks)


def test_updates_equal_the_reference_one_by_one(unlike_lm: LanguageModel) -> None:
    _equal_the_reference(unlike_lm, "mean", "end")


@pytest.mark.parametrize("kl_position", ["end", "subject"])
def test_published_keys_and_divergences_equal_the_reference(
    some_lm: LanguageModel, kl_position: KlPosition
) -> None:
    _equal_the_reference(some_lm, "original", kl_position)


def _equal_the_reference(lm: LanguageModel, key_mode: KeyMode, kl_position: KlPosition) -> None:
    method = Rome(layer=1, steps=6, weight_decay=0.1, key_mode=key_mode, kl_position=kl_position)
    cases = [_case("Rome", "c0"), _case("New Delhi", "c1"), _case("Lima", "c2", LONGER)]
    values, failed = optimised(lm, cases, CONTEXTS, method.objective())
    assert not failed
    for case in cases:
        found = method.update(values[case.id])
        expected = _reference(lm, case, key_mode, kl_position)
        value = values[case.id]
        assert _off(value.v_star, expected.v_star) < 1e-4
        wanted = torch.outer(expected.v, expected.u).float()
        assert _off(torch.outer(found.v, found.u), wanted) < 1e-4


def _off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _reference(
    lm: LanguageModel, case: Case, key_mode: KeyMode, kl_position: KlPosition
) -> reference.Edit:
    assert case.edit is not None
    query, new = case.edit.query, case.edit.new
    essence = lm.encode(ESSENCE, lm.tokenizer.mask_token or "Paris")
    end = essence.target[0] - (lm.kind == "causal")
    read_at = end if kl_position == "end" else essence.subject_last
    ids = essence.prompt_ids if lm.kind == "causal" else essence.ids
    return reference.rome(
        lm.model,
        lm.architecture.mlp_output(1),
        [_reference_prompt(lm, query.after(context), new) for context in CONTEXTS],
        lm.encode(query, new).target_ids,
        reference.Essence(torch.tensor([ids]), essence.subject_last, read_at),
        reference.Settings(steps=6, weight_decay=0.1, key_mode=key_mode),
    )


def test_the_old_answer_has_no_say_in_what_must_not_change(some_lm: LanguageModel) -> None:
    # Without a blank before it no answer can follow: "France is aParis".
    case = replace(_case(), essence=Query("France is a", "", (0, 6)))
    request, plain = (Request.of(some_lm, one, CONTEXTS) for one in (case, _case()))
    assert request.essence is not None
    assert plain.essence is not None
    assert request.essence.prompt_ids == plain.essence.prompt_ids
    assert request.essence.subject == plain.essence.subject


@pytest.mark.parametrize("relative_to_state", [False, True])
def test_stepped_values_equal_those_of_whole_rows(
    unlike_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, relative_to_state: bool
) -> None:
    objective = replace(
        Rome(layer=1, steps=5, weight_decay=0.5).objective(), relative_to_state=relative_to_state
    )
    cases = [_case("Rome", "c0"), _case("New Delhi", "c1", LONGER)]
    found, _ = optimised(unlike_lm, cases, CONTEXTS, objective)
    monkeypatch.setattr(values_module, "Stepped", _refuse)
    whole, _ = optimised(unlike_lm, cases, CONTEXTS, objective)
    for case in cases:
        for one, other in zip(found[case.id], whole[case.id], strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def _refuse(*_args: object) -> None:
    raise CannotStepError("not today")


def test_an_edit_does_not_depend_on_its_company(some_lm: LanguageModel) -> None:
    objective = Rome(layer=1, steps=8, weight_decay=1e-3).objective()
    cases = [_case("Rome", "c0"), _case("New Delhi", "c1"), _case("Paris", "c2", LONGER)]
    together, _ = optimised(some_lm, cases, CONTEXTS, objective)
    in_turn, _ = optimised(some_lm, cases, CONTEXTS, replace(objective, max_rows=1))
    for case in cases:
        (alone,) = optimised(some_lm, [case], CONTEXTS, objective)[0].values()
        torch.testing.assert_close(together[case.id].delta, alone.delta)
        torch.testing.assert_close(in_turn[case.id].delta, alone.delta)


def test_an_edit_that_is_good_enough_keeps_its_value(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = replace(Rome(layer=1, steps=8).objective(), clamp_norm=0.3)
    (first,) = optimised(some_lm, [_case()], [""], replace(objective, steps=1))[0].values()
    assert not first.delta.any()  # the only evaluation takes no step
    for enough, moves in ((values_module._ENOUGH, True), (1e6, False)):
        monkeypatch.setattr(values_module, "_ENOUGH", enough)
        cases = [_case("Rome", "c0"), _case("New Delhi", "c1")]
        for value in optimised(some_lm, cases, CONTEXTS, objective)[0].values():
            assert bool(value.delta.any()) == moves
            assert float(value.delta.norm() / value.outputs[0].norm()) <= 0.3 * (1 + 1e-6)


def test_the_edited_layer_maps_the_key_to_the_value(any_lm: LanguageModel) -> None:
    method = Rome(layer=1, steps=8)
    (value,) = optimised(any_lm, [_case()], CONTEXTS, method.objective())[0].values()
    edit = method.update(value)
    key = value.keys.mean(0).float()
    values, bias = any_lm.architecture.values(1).float(), any_lm.architecture.bias(1)
    before = key @ values + (0 if bias is None else bias.float())
    expected = value.v_star.float()
    torch.testing.assert_close(before + (key @ edit.u) * edit.v, expected, atol=1e-4, rtol=1e-4)
    assert torch.linalg.matrix_rank(torch.outer(edit.u, edit.v)) == 1


def test_the_edited_model_gives_the_value_at_the_subject(some_lm: LanguageModel) -> None:
    method = Rome(layer=1, steps=8, key_mode="original")
    (found,) = optimised(some_lm, [_case()], [""], method.objective())[0].values()
    edit = method.update(found)
    prompt = some_lm.encode(QUERY, "Rome")
    with applied(some_lm, edit), recorded(some_lm, [1]) as seen, torch.inference_mode():
        some_lm.hidden(some_lm.batch([some_lm.rows(prompt)[0].ids]))
        written = seen[1][1][0, prompt.subject_last]
    # The record's hook was set after the edit's, so it sees the edited output.
    torch.testing.assert_close(written, found.v_star, atol=1e-4, rtol=1e-4)


def test_an_edit_raises_the_new_answer(some_lm: LanguageModel) -> None:
    method = Rome(layer=0, steps=20, weight_decay=1e-3)
    edit = method.plan(some_lm, [_case()], seed=0).edits["c0"]
    (before,) = ask(some_lm, [Question(QUERY, "Paris", "Rome")])
    with applied(some_lm, edit):
        (after,) = ask(some_lm, [Question(QUERY, "Paris", "Rome")])
    assert after.new.log_prob > before.new.log_prob + 1


@pytest.mark.parametrize("make", [Rome, lambda layer, **more: Memit((layer,), 1.0, **more)])
def test_an_essence_counts_only_where_its_divergence_does(
    some_lm: LanguageModel, make: Callable[..., Method]
) -> None:
    broken = Query("France is a" + " a" * 80, "", (0, 6))  # longer than the model reads
    case = replace(_case(), essence=broken)
    plan = make(1, steps=2, contexts=0).plan(some_lm, [case], seed=0)
    assert list(plan.failed) == ["c0"]
    plan = make(1, steps=2, contexts=0, kl_factor=0.0).plan(some_lm, [case], seed=0)
    assert list(plan.edits) == ["c0"]


def test_contexts_depend_on_model_and_seed_only(some_lm: LanguageModel) -> None:
    first = sampled_contexts(some_lm, 0, 3, (2, 4))
    assert first[0] == ""
    assert len(first) == 7
    assert all(text.endswith(". ") for text in first[1:])
    assert sampled_contexts(some_lm, 0, 3, (2, 4)) == first
    assert sampled_contexts(some_lm, 1, 3, (2, 4)) != first


def test_contexts_begin_with_their_openings(some_lm: LanguageModel) -> None:
    openings = ("Ann", "Bob sees")
    texts = sampled_contexts(some_lm, 0, 3, (2, 4), openings)
    assert all(text.startswith(opening) for text, opening in _in_turn(texts, openings))
    assert sampled_contexts(some_lm, 0, 3, (2, 4)) != texts
    plan = Rome(layer=1, context_openings=openings, steps=1).plan(some_lm, [_case()], seed=0)
    assert len(plan.contexts) == 21
    assert all(text.startswith(openings) for text in plan.contexts[1:])


def _in_turn(texts: list[str], openings: tuple[str, ...]) -> list[tuple[str, str]]:
    """The sampled texts of each length beside the opening they should have."""
    count = (len(texts) - 1) // 2
    return [(text, openings[n % count % len(openings)]) for n, text in enumerate(texts[1:])]


def test_a_case_without_a_subject_fails_and_the_others_do_not(some_lm: LanguageModel) -> None:
    bare = Query("Ann sees ")
    case = Case("c1", "dna", "syntax", Probe(bare, "this", "these", "edit"), (bare,))
    plan = Rome(layer=1, steps=1, contexts=0).plan(some_lm, [case, _case()], seed=0)
    assert list(plan.edits) == ["c0"]
    assert plan.failed == {
        "c1": "case c1 has no subject; this method edits at the subject",
    }


def test_a_layer_that_does_not_exist_is_refused(some_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="layer 9 does not exist; the model has 0 to 2"):
        Rome(layer=9).plan(some_lm, [_case()], seed=0)


def test_a_loss_that_is_not_a_number_fails_its_case_alone(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Rome(layer=1, steps=4).objective()
    cases = [_case("Rome", "c0"), _case("Lima", "c1")]
    (expected,) = optimised(some_lm, cases[:1], CONTEXTS, objective)[0].values()
    original = values_module._Optimisation._losses

    def broken(self: object, deltas: list[torch.Tensor], going: list[int]) -> torch.Tensor:
        losses = original(self, deltas, going)  # type: ignore[arg-type]
        weights = torch.tensor([float("nan") if n == 1 else 1.0 for n in going])
        return losses * weights

    monkeypatch.setattr(values_module._Optimisation, "_losses", broken)
    values, failed = optimised(some_lm, cases, CONTEXTS, objective)
    assert failed == {"c1": "case c1: the loss became nan at step 0"}
    torch.testing.assert_close(values["c0"].delta, expected.delta)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Rome(layer=0, steps=0)
    with pytest.raises(ValueError, match="choose from mean, original"):
        Rome(layer=0, key_mode="bare")  # type: ignore[arg-type]


def test_an_answer_with_its_end_is_optimised_up_to_the_end(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    case = Case("f0", "P36", "fact", Probe(QUERY, "Paris", "Rome", "edit"), (QUERY,))
    assert case.edit is not None
    ends = Rome(layer=1, steps=40, contexts=0, end_of_answer=True, kl_factor=0.0)
    encoded = lm.ended(lm.encode(case.edit.query, case.edit.new))
    row = lm.rows(encoded)[0]

    def end_log_prob(method: Rome) -> float:
        with applied(lm, method.plan(lm, [case]).edits[case.id]):
            return lm.log_probs(lm.batch([row.ids]), [0], [row.positions[-1]])[0, row.tokens[-1]]

    assert encoded.ids[-1] == lm.ends[0]
    assert end_log_prob(ends) > end_log_prob(replace(ends, end_of_answer=False)) + 0.3
