"""Edits act as changes of weights do, and leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from kn_sweeps.cases import Query
from kn_sweeps.edits import Edit, NeuronScale, RankOne
from kn_sweeps.interventions import applied, merge
from kn_sweeps.models.language_model import LanguageModel

QUESTIONS = [
    (Query("The capital of France is ", ".", (15, 21)), "Paris", "Rome"),
    (Query("Ann sees ", " cat."), "New Delhi", "these"),
]


def _edits(lm: LanguageModel) -> list[Edit]:
    draw = torch.Generator().manual_seed(0)
    u, v = (torch.randn(n, generator=draw) for n in (lm.architecture.d_ff, lm.architecture.d_model))
    return [
        NeuronScale(((0, 3), (2, 39), (2, 0)), 0.0),
        NeuronScale(((1, 7),), 2.0),
        RankOne(1, u, v),
    ]


def _log_probs(lm: LanguageModel) -> list[float]:
    return [x for r in lm.ask(QUESTIONS) for x in (r.old.log_prob, r.new.log_prob)]


def test_an_applied_edit_equals_the_merged_one(
    any_lm: LanguageModel, weights_kept: Callable[[LanguageModel], None]
) -> None:
    weights_kept(any_lm)
    plain = _log_probs(any_lm)
    for edit in _edits(any_lm):
        with applied(any_lm, edit):
            changed = _log_probs(any_lm)
        merged = LanguageModel(copy.deepcopy(any_lm.model), any_lm.tokenizer)
        merge(merged, edit)
        assert changed == pytest.approx(_log_probs(merged), abs=1e-5)
        assert changed != pytest.approx(plain, abs=1e-5)
    assert _log_probs(any_lm) == plain


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(
    some_lm: LanguageModel,
    weights_kept: Callable[[LanguageModel], None],
    raised: type[BaseException],
) -> None:
    weights_kept(some_lm)
    plain = _log_probs(some_lm)
    for edit in _edits(some_lm):
        with pytest.raises(raised), applied(some_lm, edit):
            raise raised
    assert _log_probs(some_lm) == plain


def test_scaling_no_neuron_or_by_one_is_the_identity(some_lm: LanguageModel) -> None:
    plain = _log_probs(some_lm)
    for edit in (NeuronScale((), 0.0), NeuronScale(((0, 1), (1, 2)), 1.0)):
        with applied(some_lm, edit):
            assert _log_probs(some_lm) == plain


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (NeuronScale(((3, 0),), 0.0), "layer 3 does not exist; the model has 0 to 2"),
        (NeuronScale(((0, 40),), 0.0), r"neuron \(0, 40\) does not exist; layer 0 has 0 to 39"),
        (RankOne(-1, torch.ones(40), torch.ones(24)), "layer -1 does not exist"),
        (
            RankOne(0, torch.ones(24), torch.ones(24)),
            r"needs vectors of \(40, 24\), got \(24, 24\)",
        ),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(
    lm_of,  # noqa: ANN001
    weights_kept: Callable[[LanguageModel], None],
    edit: Edit,
    message: str,
) -> None:
    weights_kept(lm_of("gpt2"))
    with pytest.raises(ValueError, match=message), applied(lm_of("gpt2"), edit):
        pass
