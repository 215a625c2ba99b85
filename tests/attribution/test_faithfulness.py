"""Curves of silenced neurons are those of one forward pass a cell; costs are what blocks do."""

from __future__ import annotations

import pytest
import torch

from kn_sweeps.attribution.baselines import grad_x_act
from kn_sweeps.attribution.cost import cost_of
from kn_sweeps.attribution.faithfulness import (
    Cell,
    Silencing,
    SteppedSilencing,
    curves,
    silencing,
    sizes,
)
from kn_sweeps.cases import Query
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.reference.reading import Row
from tests.reference.silencing import probability_without

QUESTIONS = [
    (Query("The capital of France is ", "."), "Paris"),
    (Query("Ann sees ", " cat ."), "New Delhi"),
]
KS = [0, 1, 5, 60, 120]


def _prompts(lm: LanguageModel) -> list[Encoded]:
    return [lm.encode(*one) for one in QUESTIONS]


def _scores(lm: LanguageModel) -> torch.Tensor:
    shape = (2, 2, lm.architecture.layers, lm.architecture.d_ff)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_they_are_those_of_one_pass_a_cell(some_lm: LanguageModel) -> None:
    prompts, scores = _prompts(some_lm), _scores(some_lm)
    projections = [some_lm.architecture.mlp_output(n) for n in range(3)]
    assert isinstance(silencing(some_lm, prompts), SteppedSilencing)
    for max_rows in (512, 7):
        found = curves(some_lm, prompts, scores, KS, max_rows=max_rows)
        for p, prompt in enumerate(prompts):
            rows = [
                Row(torch.tensor([row.ids]), row.positions, row.tokens)
                for row in some_lm.rows(prompt)
            ]
            for r in range(2):
                order = scores[r, p].flatten().argsort(descending=True)
                for n, k in enumerate(KS):
                    for curve, chosen in enumerate((order[:k], order[k:])):
                        silent = torch.zeros(scores[r, p].numel(), dtype=torch.bool)
                        silent[chosen] = True
                        silent = silent.view(scores[r, p].shape)
                        expected = probability_without(some_lm.model, projections, rows, silent)
                        assert float(found[curve, r, p, n]) == pytest.approx(expected, rel=1e-6)


def test_the_fast_way_is_the_general_one(unlike_lm: LanguageModel) -> None:
    prompts = _prompts(unlike_lm)
    shape = (2, 2, unlike_lm.architecture.layers, unlike_lm.architecture.d_ff)
    order = torch.rand(shape, generator=torch.Generator().manual_seed(1)).flatten(2).argsort(-1)
    ranks = order.argsort(-1).view(shape)
    cells = [(p, r, k, kept) for p in (0, 1) for r in (0, 1) for k in (0, 9) for kept in (0, 1)]
    every = [Cell(p, r, k, bool(kept)) for p, r, k, kept in cells]
    with torch.no_grad():
        found = silencing(unlike_lm, prompts)(ranks, every)
        expected = Silencing(unlike_lm, prompts)(ranks, every)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_at_their_ends_all_rankings_meet(some_lm: LanguageModel) -> None:
    prompts = _prompts(some_lm)
    every = some_lm.architecture.layers * some_lm.architecture.d_ff
    suppressed, kept = curves(some_lm, prompts, _scores(some_lm), [0, every])
    own = torch.tensor(
        [one.value for one in grad_x_act(some_lm, prompts)], dtype=torch.float64
    ).expand(2, 2)
    torch.testing.assert_close(suppressed[:, :, 0], own, rtol=1e-6, atol=0)
    torch.testing.assert_close(kept[:, :, 1], own, rtol=1e-6, atol=0)
    torch.testing.assert_close(suppressed[:, :, 1], kept[:, :, 0], rtol=1e-6, atol=0)


def test_sizes_go_up_to_all_neurons() -> None:
    assert sizes(120) == [0, 1, 2, 5, 10, 20, 50, 100, 120]
    assert sizes(100) == [0, 1, 2, 5, 10, 20, 50, 100]


def test_a_cost_is_what_blocks_do(causal_lm: LanguageModel) -> None:
    batch = causal_lm.batch([(2, 5, 6, 7), (2, 8, 9, 10)])
    with cost_of(causal_lm) as plain, torch.no_grad():
        causal_lm.hidden(batch)
    assert (plain.forward, plain.backward) == (pytest.approx(8), 0)
    assert plain.seconds > 0
    with cost_of(causal_lm) as found:
        grad_x_act(causal_lm, _prompts(causal_lm))
    assert found.forward > found.backward > 0
    assert not causal_lm.architecture.blocks[0]._forward_hooks
