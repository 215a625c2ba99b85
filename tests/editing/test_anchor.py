"""Anchored values of a sequence have the norm that values had before anything was edited."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing.second_moment import TextSource
from kn_sweeps.editing.values import optimised
from kn_sweeps.edits import RankOne, State, joined
from kn_sweeps.interventions import applied, recorded
from kn_sweeps.methods.alphaedit import AlphaEdit
from kn_sweeps.methods.memit import Memit
from kn_sweeps.methods.rome import Rome
from kn_sweeps.models.language_model import LanguageModel

ALONE: dict[str, Any] = {"contexts": 0, "steps": 4, "kl_factor": 0.0, "anchor_norm": True}
METHODS = {"rome": Rome(layer=1, **ALONE), "memit": Memit((1,), 0.0, **ALONE)}


def _case(name: str, subject: str, new: str) -> Case:
    query = Query(f"The capital of {subject} is ", ".", (15, 15 + len(subject)))
    return Case(name, "P36", "fact", Probe(query, "a", new, "edit"), (query,))


CASES = [_case("c0", "France", "Rome"), _case("c1", "Peru", "Paris"), _case("c2", "India", "Lima")]


def _written(lm: LanguageModel, case: Case) -> torch.Tensor:
    """What the MLP of layer 1 puts out at the subject, as edited."""
    assert case.edit is not None
    prompt = lm.encode(case.edit.query, case.edit.new)
    with torch.no_grad(), recorded(lm, [1]) as seen:
        lm.hidden(lm.batch([lm.rows(prompt)[0].ids]))
    return seen[1][1][0, prompt.subject_last].float()


@pytest.mark.parametrize("name", METHODS)
def test_what_a_later_edit_writes_has_the_norm_of_the_first_batch(
    some_lm: LanguageModel, name: str
) -> None:
    method = METHODS[name]
    if name == "memit" and not some_lm.architecture.adds_as_is:
        pytest.skip("MEMIT refuses it")
    values, _ = optimised(some_lm, CASES[:2], [""], method.objective())
    norms = [float((_written(some_lm, case) + values[case.id].delta).norm()) for case in CASES[:2]]
    norm = sum(norms) / 2
    assert abs(norms[0] - norms[1]) > 1e-3 * norm
    first = method.plan(some_lm, CASES[:2], 0, together=True, state={})
    (state,) = first.state
    # A larger model by what was edited in between: that is what the anchor is for.
    swollen = RankOne(1, torch.ones(40), 3 * torch.ones(24))
    before = joined([*first.edits.values(), swollen])
    with applied(some_lm, before):
        plan = method.plan(some_lm, CASES[2:], 0, state=method.carried({}, state))
        plain = replace(method, anchor_norm=False).plan(some_lm, CASES[2:], 0, state={})
    assert not plan.state
    sizes: dict[str, float] = {}
    for which, one in (("anchored", plan), ("plain", plain)):
        with applied(some_lm, joined([before, *one.edits.values()])):
            sizes[which] = float(_written(some_lm, CASES[2]).norm())
    assert sizes["anchored"] == pytest.approx(norm, rel=1e-3)
    assert abs(sizes["plain"] - norm) > 0.05 * norm


def test_a_batch_has_one_norm(some_lm: LanguageModel) -> None:
    method = METHODS["rome"]
    values, _ = optimised(some_lm, CASES, [""], method.objective())
    stars = [values[case.id].outputs[0] + values[case.id].delta for case in CASES]
    norm = torch.stack(stars).norm(dim=1).mean()
    plan = method.plan(some_lm, CASES, 0, together=True)
    assert not plan.state
    for case, star in zip(CASES, stars, strict=True):
        edit = plan.edits[case.id]
        assert isinstance(edit, RankOne)
        expected = star / star.norm() * norm - values[case.id].outputs[0]
        torch.testing.assert_close(edit.v, expected.float(), atol=1e-5, rtol=1e-4)
    alone = method.plan(some_lm, CASES[:1], 0).edits["c0"]
    plain = replace(method, anchor_norm=False).plan(some_lm, CASES[:1], 0).edits["c0"]
    assert isinstance(alone, RankOne)
    assert isinstance(plain, RankOne)
    torch.testing.assert_close(alone.v, plain.v)


def test_alphaedit_carries_the_norm_beside_its_keys() -> None:
    method = AlphaEdit((1,), 0.1, null_threshold=1.0, second_moment=TextSource("bundled"), **ALONE)
    state: State = {}
    for left in ({"anchor norm": torch.tensor(2.0)}, {"keys of layer 1": torch.ones(2, 3)}) * 2:
        state = method.carried(state, left)
    assert state["anchor norm"] == 2
    torch.testing.assert_close(state["keys of layer 1"], torch.full((3, 3), 4.0))
