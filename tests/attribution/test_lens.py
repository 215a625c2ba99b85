"""Log-probability increases are those of a loop over neurons."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch

from kn_sweeps.attribution import lens
from kn_sweeps.attribution.lens import log_prob_increase
from kn_sweeps.cases import Query
from kn_sweeps.models.language_model import LanguageModel
from tests.conftest import random_lm
from tests.reference.lens import increase

PROMPTS = [(Query("The capital of France is "), "Paris"), (Query("Ann sees "), "New Delhi")]


@pytest.mark.parametrize(
    ("family", "norm"), [("gpt2", "transformer.ln_f"), ("llama", "model.norm")]
)
def test_they_are_those_of_a_loop(
    lm_of: Callable[[str], LanguageModel], family: str, norm: str
) -> None:
    lm = lm_of(family)
    prompts = [lm.encode(*one) for one in PROMPTS]
    for prompt, found in zip(prompts, log_prob_increase(lm, prompts), strict=True):
        (row,) = lm.rows(prompt)
        for layer in range(lm.architecture.layers):
            expected = increase(
                lm.model,
                lm.architecture.blocks[layer],
                lm.architecture.mlp_output(layer),
                lm.model.get_submodule(norm),
                torch.tensor([row.ids]),
                dict(zip(row.positions, row.tokens, strict=True)),
            )
            torch.testing.assert_close(found[layer], expected.float(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "gemma2", "granite"])
def test_where_a_norm_stands_between_it_is_refused(
    lm_of: Callable[[str], LanguageModel], family: str
) -> None:
    lm = lm_of(family)
    with pytest.raises(ValueError, match="normed before it reaches the head"):
        log_prob_increase(lm, [lm.encode(*PROMPTS[0])])


def test_a_norm_that_is_not_the_heads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = random_lm("llama")
    other = deepcopy(lens.final_norm(lm))
    torch.nn.init.uniform_(other.weight, 0.5, 2)
    monkeypatch.setattr(lens, "final_norm", lambda _: other)
    with pytest.raises(ValueError, match="not its last MLP's sum behind LlamaRMSNorm alone"):
        lens.log_prob_increase(lm, [lm.encode(Query("The capital of France is "), "Paris")])


def test_a_head_that_is_not_linear_is_refused() -> None:
    lm = random_lm("llama")
    capped = lm.model.lm_head.register_forward_hook(lambda _m, _x, logits: (9 * logits).tanh())
    with capped, pytest.raises(ValueError, match="its head is not linear"):
        log_prob_increase(lm, [lm.encode(*PROMPTS[0])])


def test_what_exp_cannot_hold_is_finite_all_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(9, generator=generator).log_softmax(-1)
    moves = torch.randn(4, 9, generator=generator)
    amounts = torch.tensor([0.1, -500, 500, 2])
    wide = (logs.double() + moves.double() * amounts.double()[:, None]).log_softmax(-1)
    expected = (wide[:, 3] - logs.double()[3]).float()
    found = lens._increase(moves, amounts, logs, torch.tensor(3))
    torch.testing.assert_close(found, expected)
