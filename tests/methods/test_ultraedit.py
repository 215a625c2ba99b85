"""UltraEdit is what its naive reference computes, and its statistics are those of all edits."""

from __future__ import annotations

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import Edit, LowRank, State, parts
from kn_sweeps.methods.ultraedit import UltraEdit
from kn_sweeps.models.language_model import LanguageModel
from tests.reference import ultraedit as reference
from tests.reference.reading import Row

QUERY = Query("The capital of France is ", ".", (15, 21))
OTHER = Query("Ann sees ", " cat.")
THIRD = Query("The city of Peru is in ", ".", (12, 16))
CASES = [
    Case("c0", "P36", "fact", Probe(QUERY, "Paris", "New Delhi", "edit"), (QUERY,)),
    Case("c1", "dna", "syntax", Probe(OTHER, "this", "these", "edit"), (OTHER,)),
    Case("c2", "P36", "fact", Probe(THIRD, "Lima", "Rome", "edit"), (THIRD,)),
]
METHOD = UltraEdit(layers=(0, 2), learning_rate=0.01)


def _change(lm: LanguageModel, edits: list[Edit], layer: int) -> torch.Tensor:
    total = torch.zeros(lm.architecture.d_ff, lm.architecture.d_model).double()
    for part in (part for edit in edits for part in parts(edit)):
        assert isinstance(part, LowRank)
        if part.layer == layer:
            total += part.u.double().T @ part.v.double()
    return total


def _rows(lm: LanguageModel, case: Case) -> list[Row]:
    assert case.edit is not None
    rows = lm.rows(lm.encode(case.edit.query, case.edit.new))
    return [Row(torch.tensor([row.ids]), row.positions, row.tokens) for row in rows]


def test_two_batches_of_a_sequence_are_the_references(some_lm: LanguageModel) -> None:
    state: State = {}
    changes = []
    for batch in (CASES[:2], CASES[2:]):
        plan = METHOD.plan(some_lm, batch, state=state)
        for left in plan.state:
            state = METHOD.carried(state, left)
        edits = [plan.edits[case.id] for case in batch]
        changes.append({layer: _change(some_lm, edits, layer) for layer in (0, 2)})
    projections = [some_lm.architecture.mlp_output(layer) for layer in (0, 2)]
    rows = [_rows(some_lm, case) for case in CASES]
    every = reference.seen(some_lm.model, projections, rows)
    first = reference.seen(some_lm.model, projections, rows[:2])
    for n, layer in enumerate((0, 2)):
        (keys, gradients), own = every[n], len(first[n][0])
        batches = ((slice(0, own), own), (slice(own, None), None))
        for change, (at, until) in zip(changes, batches, strict=True):
            expected = reference.update(
                *(keys[at], gradients[at], keys[:until], gradients[:until]),
                *(METHOD.learning_rate, METHOD.weight),
            )
            torch.testing.assert_close(change[layer], expected, atol=1e-6, rtol=1e-4)
            assert float(expected.norm()) > 1e-3


def test_statistics_carried_over_batches_are_those_of_all_at_once(
    some_lm: LanguageModel,
) -> None:
    state: State = {}
    for case in CASES:
        for left in METHOD.plan(some_lm, [case], state=state).state:
            state = METHOD.carried(state, left)
    (whole,) = METHOD.plan(some_lm, CASES, together=True, state={}).state
    assert set(state) == set(whole)
    for name, value in whole.items():
        torch.testing.assert_close(state[name], value)


def test_an_edit_is_normalised_by_others_or_refused(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    with pytest.raises(ValueError, match="none can be made alone; use regime=batch"):
        METHOD.plan(lm, CASES)
    plan = METHOD.plan(lm, CASES[2:], state={})  # an answer of one token
    assert not plan.edits
    assert "it is the first of its sequence" in plan.failed["c2"]
    state = METHOD.carried({}, plan.state[0])
    assert set(METHOD.plan(lm, CASES[1:2], state=state).edits) == {"c1"}
    assert not METHOD.plan(lm, CASES, together=True).state
    every = UltraEdit().plan(lm, CASES, together=True).edits["c0"]
    assert [part.layer for part in parts(every) if isinstance(part, LowRank)] == [1, 2]


def test_impossible_settings_are_refused(lm_of) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="layers must be some layers in ascending order"):
        UltraEdit(layers=(2, 1))
    with pytest.raises(ValueError, match="or null; got none"):
        UltraEdit(layers=())
    with pytest.raises(ValueError, match="learning_rate must be above 0"):
        UltraEdit(learning_rate=0.0)
    with pytest.raises(ValueError, match="weight must be above 0"):
        UltraEdit(weight=float("nan"))
    wild = UltraEdit(layers=(1,), learning_rate=1e38).plan(lm_of("gpt2"), CASES, together=True)
    assert "the update is not finite" in str(wild.failed)
    with pytest.raises(ValueError, match="layer 7 does not exist"):
        UltraEdit(layers=(7,)).plan(lm_of("gpt2"), CASES, together=True)
