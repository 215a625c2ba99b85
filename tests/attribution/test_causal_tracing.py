"""Causal tracing against one forward a cell, on every family, and its laws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kn_sweeps.attribution.causal_tracing import subject_noise, subject_spread, trace
from kn_sweeps.attribution.restoring import Restoring
from kn_sweeps.cases import COMPONENTS, Query
from kn_sweeps.models.language_model import LanguageModel
from tests.reference.tracing import indirect_effects

QUERY = Query("The capital of New Delhi is ", " .", (15, 24))
NOISE: dict[str, Any] = {"noise": 0.5, "seed": 0, "samples": 3}


def _prompt(lm: LanguageModel) -> Any:
    return lm.encode(QUERY, "Rome")


def _reference(lm: LanguageModel, component: str, window: int) -> tuple[float, torch.Tensor]:
    prompt = _prompt(lm)
    (row,) = lm.rows(prompt)
    architecture = lm.architecture

    def read(copies: int) -> torch.Tensor:
        ids = torch.tensor([row.ids] * copies)
        with torch.no_grad():
            logits = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        return logits[:, row.positions[0]].softmax(-1)[:, row.tokens[0]]

    modules = {
        "state": list(architecture.blocks),
        "mlp": [architecture.mlp_output(n) for n in range(architecture.layers)],
        "attention": [architecture.attention_output(n) for n in range(architecture.layers)],
    }[component]
    noise = subject_noise(prompt, architecture.d_embedding, **NOISE)
    length = len(prompt.prompt_ids) if lm.kind == "causal" else len(prompt.ids)
    window = 1 if component == "state" else window
    embeddings = architecture.embeddings
    return indirect_effects(embeddings, modules, prompt.subject, noise, length, window, read)


@pytest.mark.parametrize("component", COMPONENTS)
def test_it_agrees_with_one_forward_a_cell(unlike_lm: LanguageModel, component: Any) -> None:
    _agrees(unlike_lm, component, 2)


@pytest.mark.parametrize("window", [1, 10])
def test_windows_of_any_width_agree_with_one_forward_a_cell(
    some_lm: LanguageModel, window: int
) -> None:
    for component in COMPONENTS:
        _agrees(some_lm, component, window)


def _agrees(lm: LanguageModel, component: Any, window: int) -> None:
    found = trace(lm, _prompt(lm), **NOISE, components=[component], window=window)
    corrupted, effects = _reference(lm, component, window)
    assert found.corrupted == pytest.approx(corrupted, rel=1e-9)
    torch.testing.assert_close(found.effects[component], effects, rtol=1e-6, atol=1e-10)


def test_stepping_is_used_where_it_can_be_and_equals_whole_rows(
    unlike_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = trace(unlike_lm, _prompt(unlike_lm), **NOISE, max_rows=7)
    calls: list[int] = []
    original = Restoring.whole

    def whole(self: Restoring, *args: Any) -> Any:
        calls.append(1)
        return original(self, *args)

    monkeypatch.setattr(Restoring, "whole", whole)
    trace(unlike_lm, _prompt(unlike_lm), **NOISE)
    # One call reads the corrupted run itself.
    assert (len(calls) > 1) != unlike_lm.can_be_stepped
    monkeypatch.setattr(Restoring, "stepped", original)
    plain = trace(unlike_lm, _prompt(unlike_lm), **NOISE)
    for component in COMPONENTS:
        torch.testing.assert_close(
            stepped.effects[component], plain.effects[component], rtol=1e-6, atol=1e-10
        )


def test_an_answer_of_several_tokens_is_traced_as_a_whole(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = some_lm.encode(Query("The capital of India is ", " .", (15, 20)), "New Delhi")
    assert len(prompt.target_ids) > 1
    found = trace(some_lm, prompt, **NOISE, components=["state"])
    logs = [
        float(some_lm.log_probs(some_lm.batch([row.ids]), [0], [position])[0, token])
        for row in some_lm.rows(prompt)
        for position, token in zip(row.positions, row.tokens, strict=True)
    ]
    assert found.clean == pytest.approx(float(torch.tensor(logs).double().sum().exp()), rel=1e-5)
    stepped = found.effects["state"]
    monkeypatch.setattr(Restoring, "stepped", Restoring.whole)
    plain = trace(some_lm, prompt, **NOISE, components=["state"])
    torch.testing.assert_close(stepped, plain.effects["state"], rtol=1e-6, atol=1e-12)


def test_without_noise_nothing_has_an_effect(some_lm: LanguageModel) -> None:
    found = trace(some_lm, _prompt(some_lm), **NOISE | {"noise": 0.0})
    assert found.corrupted == pytest.approx(found.clean, rel=1e-9)
    for effects in found.effects.values():
        assert effects.abs().max() < 1e-9


def test_restoring_what_is_read_last_restores_the_answer(some_lm: LanguageModel) -> None:
    found = trace(some_lm, _prompt(some_lm), **NOISE, components=["state"])
    (row,) = some_lm.rows(_prompt(some_lm))
    effect = float(found.effects["state"][row.positions[0], -1])
    assert abs(found.clean - found.corrupted) > 1e-6
    assert effect == pytest.approx(found.clean - found.corrupted, rel=1e-6)


def test_before_the_subject_of_a_causal_model_nothing_is_restored(causal_lm: LanguageModel) -> None:
    found = trace(causal_lm, _prompt(causal_lm), **NOISE)
    start = _prompt(causal_lm).subject[0]
    assert start > 0
    for effects in found.effects.values():
        assert not effects[:start].any()
        assert effects[start:].any()


def test_the_model_is_left_as_it_was(some_lm: LanguageModel) -> None:
    trace(some_lm, _prompt(some_lm), **NOISE)
    assert not some_lm.is_edited
    assert not some_lm.architecture.embeddings._forward_hooks
    assert not any(block._forward_hooks for block in some_lm.architecture.blocks)


def test_wrong_input_is_refused(causal_lm: LanguageModel) -> None:
    plain = causal_lm.encode(Query("The capital of France is "), "Rome")
    with pytest.raises(ValueError, match="the query has none"):
        trace(causal_lm, plain, **NOISE)
    with pytest.raises(ValueError, match="no prompt has a subject"):
        subject_spread(causal_lm, [plain])
    with pytest.raises(ValueError, match="at least 1"):
        trace(causal_lm, _prompt(causal_lm), **NOISE | {"samples": 0})


def test_the_spread_is_that_of_the_subjects_embeddings(causal_lm: LanguageModel) -> None:
    prompt = _prompt(causal_lm)
    weight = causal_lm.architecture.embeddings.weight
    assert isinstance(weight, torch.Tensor)
    expected = weight[list(prompt.ids[slice(*prompt.subject)])].std()
    assert subject_spread(causal_lm, [prompt]) == pytest.approx(float(expected), rel=1e-6)
