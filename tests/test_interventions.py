"""Edits act as changes of weights do, and leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kn_sweeps.cases import Query
from kn_sweeps.edits import (
    Dense,
    Edit,
    Joint,
    LowRank,
    NeuronScale,
    RankOne,
    joined,
    load_edits,
    save_edits,
)
from kn_sweeps.interventions import applied, applied_rowwise, merge, neurons_replaced
from kn_sweeps.models.asking import Question, Sentence, ask, score_sentences
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.reading import Reply

QUESTIONS = [
    Question(Query("The capital of France is ", ".", (15, 21)), "Paris", "Rome"),
    Question(Query("Ann sees ", " cat."), "New Delhi", "these"),
]


def _edits(lm: LanguageModel) -> list[Edit]:
    draw = torch.Generator().manual_seed(0)
    d_ff, d_model = lm.architecture.d_ff, lm.architecture.d_model

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    suppress = NeuronScale(((0, 3), (2, 39), (2, 0)), 0.0)
    low_rank = LowRank(0, drawn(3, d_ff), drawn(3, d_model))
    return [
        suppress,
        NeuronScale(((1, 7),), 2.0),
        RankOne(1, drawn(d_ff), drawn(d_model)),
        low_rank,
        Dense(2, drawn(d_ff, d_model)),
        Joint((low_rank, suppress, RankOne(0, drawn(d_ff), drawn(d_model)))),
    ]


def _log_probs(lm: LanguageModel) -> list[float]:
    return [x for r in ask(lm, QUESTIONS) for x in (r.old.log_prob, r.new.log_prob)]


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


def test_an_edit_equals_itself_only(some_lm: LanguageModel) -> None:
    for edit, alike in zip(_edits(some_lm), _edits(some_lm), strict=True):
        assert edit not in (alike, copy.copy(edit))
        assert {edit: 1, alike: 2}[edit] == 1


def test_rows_without_an_edit_are_those_of_the_model(some_lm: LanguageModel) -> None:
    changed = partial(applied_rowwise, some_lm)
    asked = [q._replace(edit=e) for q in QUESTIONS for e in (_edits(some_lm)[0], None)]
    for found, expected in zip(
        ask(some_lm, asked, changed)[1::2], ask(some_lm, QUESTIONS), strict=True
    ):
        _assert_equal(found, expected)


def test_rows_with_their_own_edits_equal_one_edit_at_a_time(any_lm: LanguageModel) -> None:
    edits = _edits(any_lm)
    sentences = ["Ann sees this cat .", "The capital of France is Rome ."]

    changed = partial(applied_rowwise, any_lm)
    every = [*edits, *edits]
    together = ask(any_lm, [q._replace(edit=e) for e in every for q in QUESTIONS], changed)
    scored = score_sentences(any_lm, [Sentence(s, e) for e in every for s in sentences], changed)
    for n, edit in enumerate(edits):
        with applied(any_lm, edit):
            alone = ask(any_lm, QUESTIONS)
            alone_scored = score_sentences(any_lm, [Sentence(s) for s in sentences])
        for found, expected in zip(together[2 * n : 2 * n + 2], alone, strict=True):
            _assert_equal(found, expected)
        for one, other in zip(scored[2 * n : 2 * n + 2], alone_scored, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)


def _assert_equal(found: Reply, expected: Reply) -> None:
    assert found.answer == expected.answer
    for one, other in ((found.old, expected.old), (found.new, expected.new)):
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
        assert (one.hits, one.exact) == (other.hits, other.exact)
    torch.testing.assert_close(found.first_log_probs, expected.first_log_probs)


def test_edits_joined_equal_edits_nested(some_lm: LanguageModel) -> None:
    edits = _edits(some_lm)
    together = joined(edits)
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(applied(some_lm, edit))
        nested = _log_probs(some_lm)
    with applied(some_lm, together):
        assert _log_probs(some_lm) == pytest.approx(nested, abs=1e-5)
    with applied(some_lm, joined([])):
        assert _log_probs(some_lm) == _log_probs(some_lm)


def test_many_edits_joined_are_one_dense_change(some_lm: LanguageModel) -> None:
    d_ff, d_model = some_lm.architecture.d_ff, some_lm.architecture.d_model
    draw = torch.Generator().manual_seed(0)
    edits: list[Edit] = [
        RankOne(1, torch.randn(d_ff, generator=draw), torch.randn(d_model, generator=draw))
        for _ in range(40)
    ]
    so_far: Edit = Joint(())
    costs = []
    for edit in edits:
        so_far = joined([so_far, edit])
        costs.append(isinstance(so_far, LowRank) and len(so_far.u) * (d_ff + d_model))
    # It is folded where it costs what a dense one does, and stays so.
    low = d_ff * d_model // (d_ff + d_model)
    assert costs == [(n + 1) * (d_ff + d_model) if n + 1 < low else False for n in range(40)]
    assert isinstance(so_far, Dense)
    naive = sum(torch.outer(one.u, one.v) for one in edits if isinstance(one, RankOne))
    torch.testing.assert_close(so_far.change, naive, atol=1e-4, rtol=1e-5)
    mixed = joined([so_far, edits[0], NeuronScale(((1, 0),), 0.5)])
    assert isinstance(mixed, Joint)
    assert sorted(type(part).__name__ for part in mixed.parts) == ["Dense", "NeuronScale"]


def test_edits_are_the_same_when_read_back(some_lm: LanguageModel, tmp_path: Path) -> None:
    edits = {f"e/{n}": edit for n, edit in enumerate(_edits(some_lm))} | {"none": joined([])}
    save_edits(tmp_path / "edits.safetensors", edits)
    found = load_edits(tmp_path / "edits.safetensors")
    assert list(found) == list(edits)
    for name, edit in edits.items():
        assert type(found[name]) is type(edit)
        with applied(some_lm, edit):
            expected = _log_probs(some_lm)
        with applied(some_lm, found[name]):
            assert _log_probs(some_lm) == expected


def test_neurons_scaled_where_the_answer_is_read_are_as_by_hand(any_lm: LanguageModel) -> None:
    edit = NeuronScale(((0, 3), (1, 7), (2, 1)), 0.0, "read")
    queries = [Query("The capital of France is ", " ."), Query("Ann sees this cat , Bob sees ", "")]
    questions = [Question(query, "Paris", "Lima") for query in queries]
    with applied(any_lm, edit):
        replies = ask(any_lm, questions)
    for question, reply in zip(questions, replies, strict=True):
        (row,) = any_lm.rows(any_lm.encode(question.query, "Paris"))

        def silenced(index: int, at: int = row.positions[0]) -> Callable[[Tensor], Tensor]:
            def change(x: Tensor) -> Tensor:
                x = x.clone()
                x[:, at, index] = 0
                return x

            return change

        with neurons_replaced(any_lm, {layer: silenced(i) for layer, i in edit.neurons}):
            expected = any_lm.log_probs(any_lm.batch([row.ids]), [0], row.positions)
        assert reply.old.log_prob == pytest.approx(float(expected[0, row.tokens[0]]), abs=1e-5)
    everywhere = NeuronScale(edit.neurons, 0.0)
    with applied(any_lm, everywhere):
        assert ask(any_lm, questions)[0].old.log_prob != replies[0].old.log_prob
    with pytest.raises(ValueError, match="are no change of weights"):
        merge(any_lm, edit)
    with applied(any_lm, edit), pytest.raises(ValueError, match="where answers are read"):
        any_lm.hidden(any_lm.batch([(1, 2, 3)]))
