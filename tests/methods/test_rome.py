"""ROME's update solves its equation and equals the reference."""

from __future__ import annotations

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.interventions import applied, recorded
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel
from tests.reference import rome as reference

QUERY = Query("The capital of France is ", ".", (15, 21))
ESSENCE = Query("France is a ", "", (0, 6))
CONTEXTS = ["", "Ann sees this cat. ", "Bob sees these dogs . Ann is in Peru. "]


def _case(new: str = "Rome") -> Case:
    return Case("c0", "P36", "fact", Probe(QUERY, "Paris", new, "edit"), (QUERY,), (), ESSENCE)


def _reference_prompt(lm: LanguageModel, query: Query, target: str) -> reference.Prompt:
    encoded = lm.encode(query, target)
    if lm.kind == "causal":
        return reference.Prompt(torch.tensor([encoded.prompt_ids]), encoded.subject_last)
    ids = torch.tensor([encoded.ids])
    masks = tuple(range(*encoded.target))
    ids[0, list(masks)] = lm.tokenizer.mask_token_id
    return reference.Prompt(ids, encoded.subject_last, masks)


@pytest.mark.parametrize("key_mode", ["mean", "original"])
@pytest.mark.parametrize("new", ["Rome", "New Delhi"])
def test_the_update_equals_the_reference(any_lm: LanguageModel, key_mode: str, new: str) -> None:
    method = Rome(layer=1, steps=6, weight_decay=0.1, key_mode=key_mode)  # type: ignore[arg-type]
    edit = method.update(any_lm, _case(new), CONTEXTS)
    essence = any_lm.encode(ESSENCE, any_lm.tokenizer.mask_token or "Paris")
    read_at = essence.target[0] - (any_lm.kind == "causal")
    ids = essence.prompt_ids if any_lm.kind == "causal" else essence.ids
    expected = reference.rome(
        any_lm.model,
        any_lm.architecture.mlp_output(1),
        [_reference_prompt(any_lm, QUERY.after(context), new) for context in CONTEXTS],
        any_lm.encode(QUERY, new).target_ids,
        reference.Essence(torch.tensor([ids]), essence.subject_last, read_at),
        reference.Settings(steps=6, weight_decay=0.1, key_mode=key_mode),  # type: ignore[arg-type]
    )
    found = torch.outer(edit.v, edit.u)
    wanted = torch.outer(expected.v, expected.u).float()
    assert float((found - wanted).norm() / wanted.norm()) < 1e-3


def test_the_edited_layer_maps_the_key_to_the_value(any_lm: LanguageModel) -> None:
    method = Rome(layer=1, steps=8)
    case = _case()
    prompts = [any_lm.encode(QUERY.after(context), "Rome") for context in CONTEXTS]
    keys, bare_value = method._keys(any_lm, prompts)
    value = bare_value + method._optimise(any_lm, case, prompts, bare_value)
    edit = method.update(any_lm, case, CONTEXTS)
    key = keys.mean(0)
    values, bias = any_lm.architecture.values(1).float(), any_lm.architecture.bias(1)
    before = key @ values + (0 if bias is None else bias.float())
    torch.testing.assert_close(before + (key @ edit.u) * edit.v, value, atol=1e-4, rtol=1e-4)
    assert torch.linalg.matrix_rank(torch.outer(edit.u, edit.v)) == 1


def test_the_edited_model_gives_the_value_at_the_subject(some_lm: LanguageModel) -> None:
    method = Rome(layer=1, steps=8, key_mode="original")
    case = _case()
    edit = method.update(some_lm, case, [""])
    prompt = some_lm.encode(QUERY, "Rome")
    _, bare_value = method._keys(some_lm, [prompt])
    value = bare_value + method._optimise(some_lm, case, [prompt], bare_value)
    with applied(some_lm, edit), recorded(some_lm, [1]) as seen, torch.inference_mode():
        some_lm.hidden(some_lm.batch([some_lm.rows(prompt)[0].ids]))
        written = seen[1][1][0, prompt.subject_last].float()
    # The record's hook was set after the edit's, so it sees the edited output.
    torch.testing.assert_close(written, value, atol=1e-4, rtol=1e-4)


def test_an_edit_raises_the_new_answer(some_lm: LanguageModel) -> None:
    method = Rome(layer=0, steps=20, weight_decay=1e-3)
    edit = method.plan(some_lm, [_case()], seed=0).edits["c0"]
    (before,) = some_lm.score([(QUERY, "Rome")])
    with applied(some_lm, edit):
        (after,) = some_lm.score([(QUERY, "Rome")])
    assert after.log_prob > before.log_prob + 1


def test_contexts_depend_on_model_and_seed_only(some_lm: LanguageModel) -> None:
    method = Rome(layer=1, contexts=3, context_lengths=(2, 4))
    first = method.sampled_contexts(some_lm, seed=0)
    assert first[0] == ""
    assert len(first) == 7
    assert all(text.endswith(". ") for text in first[1:])
    assert method.sampled_contexts(some_lm, seed=0) == first
    assert method.sampled_contexts(some_lm, seed=1) != first


def test_a_case_without_a_subject_is_refused(some_lm: LanguageModel) -> None:
    bare = Query("Ann sees ")
    case = Case("c1", "dna", "syntax", Probe(bare, "this", "these", "edit"), (bare,))
    with pytest.raises(ValueError, match="case c1 has no subject"):
        Rome(layer=1).plan(some_lm, [case], seed=0)


def test_a_layer_that_does_not_exist_is_refused(some_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="layer 9 does not exist; the model has 0 to 2"):
        Rome(layer=9).plan(some_lm, [_case()], seed=0)


def test_a_loss_that_is_not_a_number_names_the_case(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    broken = Rome(layer=1, weight_decay=float("nan"))
    with pytest.raises(ValueError, match="case c0: ROME's loss became nan at step 0"):
        broken.update(lm, _case(), [""])


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Rome(layer=0, steps=0)
    with pytest.raises(ValueError, match="choose from mean, original"):
        Rome(layer=0, key_mode="bare")  # type: ignore[arg-type]
