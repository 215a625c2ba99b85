"""MEMIT and AlphaEdit solve what they say they solve."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing import values as values_module
from kn_sweeps.editing.contexts import sampled_contexts
from kn_sweeps.editing.rows import states_seen
from kn_sweeps.editing.second_moment import SecondMoment, TextSource, second_moments
from kn_sweeps.editing.values import optimised
from kn_sweeps.edits import Edit, Joint, LowRank, RankOne, joined, parts
from kn_sweeps.interventions import applied
from kn_sweeps.methods.alphaedit import AlphaEdit, null_space
from kn_sweeps.methods.emmet import Emmet
from kn_sweeps.methods.memit import Memit
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.language_model import LanguageModel
from tests.conftest import WORDS

QUERY = Query("The capital of France is ", ".", (15, 21))
OTHER = Query("The city of Peru is in ", ".", (12, 16))
CASES = [
    Case("c0", "P36", "fact", Probe(QUERY, "Paris", "Rome", "edit"), (QUERY,)),
    Case("c1", "P36", "fact", Probe(OTHER, "Lima", "New Delhi", "edit"), (OTHER,)),
]
ALONE = {"contexts": 0, "steps": 4, "kl_factor": 0.0}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextSource:
    """Texts of random words, enough for a positive definite moment."""
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(len(WORDS), (80, 9), generator=draw).tolist()
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(WORDS[i] for i in row) for row in words))
    return TextSource(str(path))


def _change(lm: LanguageModel, edit: Edit, layer: int) -> torch.Tensor:
    total = torch.zeros(lm.architecture.d_ff, lm.architecture.d_model)
    for part in parts(edit):
        assert isinstance(part, RankOne | LowRank)
        if part.layer == layer:
            u, v = (x.reshape(-1, x.shape[-1]) for x in (part.u, part.v))
            total += u.T @ v
    return total


def test_one_edit_of_one_layer_is_romes_equality_solution(unlike_lm: LanguageModel) -> None:
    memit = Memit(layers=(1,), covariance_weight=0.0, **ALONE)  # type: ignore[arg-type]
    if not unlike_lm.architecture.adds_as_is:
        with pytest.raises(ValueError, match="passes a norm or is multiplied before it is added"):
            memit.plan(unlike_lm, CASES[:1], seed=0)
        return
    edit = memit.plan(unlike_lm, CASES[:1], seed=0).edits["c0"]
    (value,) = optimised(unlike_lm, CASES[:1], [""], memit.objective())[0].values()
    expected = Rome(layer=1).update(value)
    torch.testing.assert_close(
        _change(unlike_lm, edit, 1), torch.outer(expected.u, expected.v), atol=1e-5, rtol=1e-4
    )


def test_a_batch_is_the_ridge_solution(some_lm: LanguageModel, source: TextSource) -> None:
    memit = Memit((1,), 3.0, second_moment=source, **ALONE)  # type: ignore[arg-type]
    plan = memit.plan(some_lm, CASES, seed=0, together=True)
    values, _ = optimised(some_lm, CASES, [""], memit.objective())
    keys = torch.stack([values[case.id].keys[0] for case in CASES]).double()
    residuals = torch.stack([values[case.id].delta for case in CASES]).double()
    (moment,) = second_moments(some_lm, [1], source)
    system = 3.0 * moment.matrix + keys.T @ keys
    expected = torch.linalg.solve(system, keys.T @ residuals)
    found = _change(some_lm, joined(plan.edits.values()), 1)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_emmet_gives_every_key_its_value_and_moves_the_rest_least(
    some_lm: LanguageModel, source: TextSource
) -> None:
    emmet = Emmet((1,), second_moment=source, **ALONE)  # type: ignore[arg-type]
    values, _ = optimised(some_lm, CASES, [""], emmet.objective())
    (moment,) = second_moments(some_lm, [1], source)
    plan = emmet.plan(some_lm, CASES, seed=0, together=True)
    change = _change(some_lm, joined(plan.edits.values()), 1).double()
    keys = torch.stack([values[case.id].keys[0] for case in CASES]).double()
    residuals = torch.stack([values[case.id].delta for case in CASES]).double()
    torch.testing.assert_close(keys @ change, residuals, atol=1e-5, rtol=1e-4)
    # As published: R (K^T C^-1 K)^-1 K^T C^-1 with keys as columns.
    inverse = torch.linalg.inv(moment.matrix)
    expected = inverse @ keys.T @ torch.linalg.inv(keys @ inverse @ keys.T) @ residuals
    torch.testing.assert_close(change, expected, atol=1e-5, rtol=1e-4)
    moves = torch.trace(change.T @ moment.matrix @ change)
    other = _change(
        some_lm,
        joined(
            Memit((1,), 0.0, **ALONE)
            .plan(  # type: ignore[arg-type]
                some_lm, CASES, seed=0, together=True
            )
            .edits.values()
        ),
        1,
    ).double()  # as equal, but least by the identity
    torch.testing.assert_close(keys @ other, residuals, atol=1e-5, rtol=1e-4)
    assert float(moves) < float(torch.trace(other.T @ moment.matrix @ other))


def test_one_edit_of_emmet_is_romes(some_lm: LanguageModel, source: TextSource) -> None:
    emmet = Emmet((1,), second_moment=source, **ALONE)  # type: ignore[arg-type]
    edit = emmet.plan(some_lm, CASES[:1], seed=0).edits["c0"]
    (value,) = optimised(some_lm, CASES[:1], [""], emmet.objective())[0].values()
    (moment,) = second_moments(some_lm, [1], source)
    rome = Rome(layer=1).update(value, moment)
    torch.testing.assert_close(
        _change(some_lm, edit, 1), torch.outer(rome.u, rome.v), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("together", [False, True])
def test_without_a_weight_the_states_are_reached(unlike_lm: LanguageModel, together: bool) -> None:
    memit = Memit((0, 1), 0.0, **ALONE)  # type: ignore[arg-type]
    if not unlike_lm.architecture.adds_as_is:
        return
    plan = memit.plan(unlike_lm, CASES, seed=0, together=together)
    values, _ = optimised(unlike_lm, CASES, [""], memit.objective())
    for case in CASES:
        edit = joined(plan.edits.values()) if together else plan.edits[case.id]
        assert case.edit is not None
        prompt = unlike_lm.encode(case.edit.query, case.edit.new)
        batch = unlike_lm.batch([unlike_lm.rows(prompt)[0].ids])
        with torch.no_grad(), applied(unlike_lm, edit), states_seen(unlike_lm, 1) as states:
            unlike_lm.hidden(batch)
        wanted = values[case.id].state + values[case.id].delta
        torch.testing.assert_close(states[0][0, prompt.subject_last], wanted, atol=1e-4, rtol=1e-4)


def test_a_value_that_is_good_enough_is_left_alone(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for case in CASES:
        assert case.edit is not None
        (reply,) = ask(some_lm, [Question(case.edit.query, case.edit.old, case.edit.new)])
        losses.append(-reply.new.log_prob / len(reply.new.ids))
    # One is below it, the other above, but not for long.
    enough = 0.1 * min(losses) + 0.9 * max(losses)
    monkeypatch.setattr(values_module, "_ENOUGH", enough)
    found = []
    for steps in (40, 60):
        settings = ALONE | {"learning_rate": 0.05, "weight_decay": 0.0, "steps": steps}
        plan = Memit((1,), 0.0, **settings).plan(some_lm, CASES, seed=0)  # type: ignore[arg-type]
        found.append([_change(some_lm, plan.edits[case.id], 1) for case in CASES])
    for loss, change, longer in zip(losses, *found, strict=True):
        assert torch.equal(change, longer)
        assert bool(change.any()) == (loss > enough)


def test_edits_alone_do_not_depend_on_their_company(some_lm: LanguageModel) -> None:
    memit = Memit((0, 1), 2.0, contexts=2, context_lengths=(3,), steps=3)
    together = memit.plan(some_lm, CASES, seed=0)
    assert set(together.edits) == {"c0", "c1"}
    assert len(together.contexts) == len(sampled_contexts(some_lm, 0, 2, (3,)))
    for case in CASES:
        alone = memit.plan(some_lm, [case], seed=0).edits[case.id]
        assert isinstance(alone, Joint)
        for layer in (0, 1):
            torch.testing.assert_close(
                _change(some_lm, together.edits[case.id], layer),
                _change(some_lm, alone, layer),
                atol=1e-5,
                rtol=1e-4,
            )


def _gap(moment: SecondMoment) -> tuple[int, float]:
    """The middle of the largest gap between eigenvalues: which are below it hangs on no digit."""
    values = torch.linalg.eigvalsh(moment.matrix)
    gap = int((values[1:] / values[:-1].clamp(min=1e-12)).argmax())
    return gap, float((values[gap] * values[gap + 1]).clamp(min=1e-12).sqrt())


def test_alphaedit_leaves_the_outputs_of_projected_keys_alone(
    some_lm: LanguageModel, source: TextSource
) -> None:
    (moment,) = second_moments(some_lm, [1], source)
    values, vectors = torch.linalg.eigh(moment.matrix)
    gap, threshold = _gap(moment)
    method = AlphaEdit(
        (1,),
        0.1,
        second_moment=source,
        null_threshold=threshold,
        **ALONE,  # type: ignore[arg-type]
    )
    change = _change(some_lm, joined(method.plan(some_lm, CASES, 0).edits.values()), 1).double()
    basis = null_space(moment, threshold)
    assert basis.shape[1] == gap + 1
    torch.testing.assert_close(basis.T @ basis, torch.eye(gap + 1, dtype=torch.float64))
    common = vectors[:, values >= threshold].T
    assert float((common @ change).abs().max()) < 1e-4 * float(change.abs().max())
    assert float(change.abs().max()) > 0


def test_what_cannot_be_done_is_refused(lm_of, source: TextSource) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="layers must be some layers in ascending order"):
        Memit((2, 1), 1.0)
    with pytest.raises(ValueError, match="AlphaEdit needs a text source"):
        AlphaEdit((1,), 1.0)
    with pytest.raises(ValueError, match="layer 7 does not exist"):
        Memit((1, 7), 1.0).plan(lm_of("gpt2"), CASES, seed=0)
    again = Case("c2", "P36", "fact", Probe(QUERY, "Paris", "Lima", "edit"), (QUERY,))
    with pytest.raises(ValueError, match="depend on each other.*raise covariance_weight"):
        Memit((1,), 0.0, **ALONE).plan(  # type: ignore[arg-type]
            lm_of("gpt2"), [CASES[0], again], seed=0, together=True
        )
    singular = SecondMoment(1, torch.eye(4, dtype=torch.float64), 10, 0.0)
    with pytest.raises(ValueError, match="layer 1 has no null space"):
        null_space(singular, 0.5)
