"""A line that anybody may add to FAMILIES is right under every law, or refused with a sentence."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kn_sweeps.attribution.integrand import Point
from kn_sweeps.attribution.integrated_gradients import integrand_of, integrated_gradients
from kn_sweeps.cases import Query
from kn_sweeps.interventions import outputs_replaced, recorded
from kn_sweeps.models.families import FAMILIES, Family, family_of, modules_head
from kn_sweeps.models.families import REFUSED as REFUSED_FAMILIES
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.laws import check_laws
from kn_sweeps.models.rewriting import RowwiseOPTDecoderLayer
from tests import test_interventions
from tests.conftest import random_lm
from tests.models import test_language_model

_ALBERT = Family(
    "masked",
    "albert",
    "albert.encoder.albert_layer_groups",
    "albert_layers.0.ffn_output",
    "albert_layers.0.attention.dense",
    "albert.embeddings.word_embeddings",
    "albert_layers.0.full_layer_layer_norm",
    head=modules_head("predictions"),
)
_FALCON = Family(
    "causal",
    "transformer",
    "transformer.h",
    "mlp.dense_4h_to_h",
    "self_attention.dense",
    "transformer.word_embeddings",
)
_MPT = Family(
    "causal",
    "transformer",
    "transformer.blocks",
    "ffn.down_proj",
    "attn.out_proj",
    "transformer.wte",
)
_OPT = Family(
    "causal",
    "model.decoder",
    "model.decoder.layers",
    "fc2",
    "self_attn.out_proj",
    "model.decoder.embed_tokens",
)
_GEMMA2 = replace(FAMILIES["gemma2"], output_norm=None)
_GRANITE = replace(FAMILIES["granite"], factor=None)
_UP = replace(FAMILIES["llama"], pre_activation="mlp.up_proj")
_NOT_FUSED = replace(FAMILIES["phi3"], fused=False)
_EMBEDDINGS = replace(FAMILIES["opt"], embeddings="model.decoder.embed_positions")

REFUSED = [
    ("falcon", _FALCON, {}, "MLP's output projection of layer 0 is changed in place"),
    ("albert", _ALBERT, {"embedding_size": 24}, "layer 0 is run 3 times in one pass: layers of"),
    ("gemma2", _GEMMA2, {}, "Without its MLP's output block 0 gives something else"),
    ("granite", _GRANITE, {}, "Without its MLP's output block 0 gives something else"),
    ("gemma2", FAMILIES["llama"], {}, "head of final hidden states gives the model's own"),
    ("opt", _OPT, {}, "has no place for each token of each row"),
    ("llama", _UP, {}, "activation function reads what.* Its negative gives the negative"),
    ("phi3", _NOT_FUSED, {}, "activation function reads what pre_activation.* puts out 80 numbers"),
]
RIGHT = [
    ("falcon", _FALCON, {"parallel_attn": False}),
    ("mpt", _MPT, {}),
]


def _made(monkeypatch: pytest.MonkeyPatch, family: str, line: Family, more: Any) -> LanguageModel:
    monkeypatch.setitem(FAMILIES, family, line)
    monkeypatch.delitem(REFUSED_FAMILIES, family, raising=False)
    return random_lm.__wrapped__(family, **more)


@pytest.mark.parametrize(("family", "line", "more", "why"), REFUSED)
def test_what_is_not_as_its_line_says_is_refused(
    monkeypatch: pytest.MonkeyPatch, family: str, line: Family, more: Any, why: str
) -> None:
    with pytest.raises(ValueError, match=f"{family} cannot be used.*{why}.*docs/adding"):
        _made(monkeypatch, family, line, more)


@pytest.mark.parametrize(("family", "line", "more"), RIGHT)
def test_what_is_accepted_is_right_under_the_laws_of_every_family(
    monkeypatch: pytest.MonkeyPatch, family: str, line: Family, more: Any, weights_kept: Any
) -> None:
    lm = _made(monkeypatch, family, line, more)
    test_language_model.test_batched_scores_equal_the_reference_one_by_one(lm)
    test_language_model.test_greedy_answers_equal_the_reference(lm)
    test_language_model.test_padding_and_company_change_nothing(lm)
    test_interventions.test_an_applied_edit_equals_the_merged_one(lm, weights_kept)
    _attributions_are_complete(lm)
    _keys_give_outputs(lm)


def _attributions_are_complete(lm: LanguageModel) -> None:
    """Attributions sum to P(a) - P(0), where P(0) is that of the model without the MLP."""
    prompt = lm.encode(Query("The capital of France is ", "."), "Paris")
    (found,) = integrated_gradients(lm, [prompt])
    integrand = integrand_of(lm, [prompt], "probability")
    for layer in range(lm.architecture.layers):
        without = float(integrand.at([Point(0, layer, 0.0)])[0])
        bias = lm.architecture.bias(layer)

        def silent(_neurons: Tensor, output: Tensor, bias: Tensor | None = bias) -> Tensor:
            at = _where(lm, prompt.target)
            output = output.clone()
            output[:, at] = 0 if bias is None else bias
            return output

        with outputs_replaced(lm, {layer: silent}):
            alone = _probability(lm, prompt)
        assert without == pytest.approx(alone, abs=1e-6)  # read in float32
        assert float(found.scores[layer].sum()) == pytest.approx(found.value - alone, abs=1e-4)


def _where(lm: LanguageModel, target: tuple[int, int]) -> list[int]:
    shift = 1 if lm.kind == "causal" else 0
    return [at - shift for at in range(*target)]


@torch.no_grad()
def _probability(lm: LanguageModel, prompt: Any) -> float:
    (row,) = lm.rows(prompt)
    read = lm.log_probs(lm.batch([row.ids]), [0] * len(row.positions), row.positions)
    return float(read[range(len(row.tokens)), row.tokens].sum().exp())


@torch.no_grad()
def _keys_give_outputs(lm: LanguageModel) -> None:
    """W k is what is recorded as the MLP's output: what ROME takes as v."""
    ids = lm.encode(Query("Ann sees ", " cat."), "this").ids
    with recorded(lm, range(lm.architecture.layers)) as seen:
        lm.hidden(lm.batch([ids]))
    for layer, (neurons, output) in seen.items():
        bias = lm.architecture.bias(layer)
        expected = neurons @ lm.architecture.values(layer)
        torch.testing.assert_close(output, expected if bias is None else expected + bias)


_WHOLE = {"bloom", "deberta-v2", "falcon", "gemma2", "gptj", "modernbert"}
"""Families whose attention is their own, or takes positions that a part of a row has not."""


def test_families_that_are_known_are_stepped_where_they_can_be(any_lm: LanguageModel) -> None:
    assert any_lm.can_be_stepped == (any_lm.architecture.model_type not in _WHOLE)


@pytest.mark.parametrize("family", sorted(REFUSED_FAMILIES))
def test_a_family_that_cannot_be_right_is_refused_with_its_reason(family: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED_FAMILIES[family])):
        family_of(family)


def test_embeddings_that_no_token_is_read_with_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'model.decoder.embed_positions' is not what tokens are"):
        _made(monkeypatch, "opt", _EMBEDDINGS, {})


def test_what_computes_something_else_in_another_way_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forward = RowwiseOPTDecoderLayer.forward
    monkeypatch.setattr(
        RowwiseOPTDecoderLayer, "forward", lambda *args, **more: 1.01 * forward(*args, **more)
    )
    with pytest.raises(ValueError, match="another way gives what it gives as transformers has it"):
        random_lm.__wrapped__("opt", layer_norm_elementwise_affine=False)


def _changed(lm: LanguageModel, change: Callable[[LanguageModel], None]) -> LanguageModel:
    other = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, name="changed")
    change(other)
    return other


def test_layers_that_share_a_weight_are_refused(some_lm: LanguageModel) -> None:
    def share(lm: LanguageModel) -> None:
        first, second = map(lm.architecture.mlp_output, (0, 1))
        second.weight = first.weight

    with pytest.raises(ValueError, match="Layers share the weights of their MLP's output"):
        check_laws(_changed(some_lm, share))


def test_an_mlp_output_that_is_scaled_before_it_is_added_is_refused(
    some_lm: LanguageModel,
) -> None:
    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 0.9 * self.inner(x)

    def scale(lm: LanguageModel) -> None:
        # Around the dropout behind the projection, or around the whole MLP.
        for block in lm.architecture.blocks:
            where = block.output if lm.kind == "masked" else block
            name = "dropout" if lm.kind == "masked" else "mlp"
            setattr(where, name, Scaled(getattr(where, name)))

    with pytest.raises(ValueError, match="gives something else"):
        check_laws(_changed(some_lm, scale))


def test_a_model_that_reads_padding_is_refused(some_lm: LanguageModel) -> None:
    def blind(lm: LanguageModel) -> None:
        base = lm.architecture.base
        forward = base.forward

        def reading(input_ids: Tensor, attention_mask: Tensor, **more: Any) -> Any:
            output = forward(input_ids=input_ids, attention_mask=attention_mask, **more)
            output.last_hidden_state = output.last_hidden_state + (attention_mask == 0).sum()
            return output

        base.forward = reading  # type: ignore[method-assign]

    with pytest.raises(ValueError, match=r"A row gives (in a padded batch|behind a cache)"):
        check_laws(_changed(some_lm, blind))


def test_checking_leaves_no_trace(
    some_lm: LanguageModel, weights_kept: Callable[[LanguageModel], None]
) -> None:
    weights_kept(some_lm)
    check_laws(some_lm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_breaks_no_law(unlike_lm: LanguageModel, dtype: torch.dtype) -> None:
    model = copy.deepcopy(unlike_lm.model).to(dtype)
    lm = LanguageModel(model, unlike_lm.tokenizer, name=unlike_lm.name)
    check_laws(lm)
    assert lm.can_be_stepped == unlike_lm.can_be_stepped
