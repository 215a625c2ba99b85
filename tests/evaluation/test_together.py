"""Cases that go together are planned at once, scored with all their edits, and fail as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.edits import RankOne, State
from kn_sweeps.evaluation.evaluate import evaluate
from kn_sweeps.evaluation.regimes import Steps, in_effect, scored, unit
from kn_sweeps.interventions import applied
from kn_sweeps.methods.base import Method
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.row import rows_frame

FRANCE = Query("The capital of France is ", ".", (15, 21))
INDIA = Query("The capital of India is ", ".", (15, 20))
ALONE = Case("c", "P36", "fact", Probe(INDIA, "New Delhi", "Lima", "edit"))
FIRST = Case("a", "P36", "fact", Probe(FRANCE, "Paris", "Rome", "edit"), together="chain")
SECOND = Case("b", "P36", "fact", Probe(INDIA, "New Delhi", "Rome", "edit"), together="chain")


@dataclass(frozen=True)
class Noise(Method):
    """A change of its own for each case, but for those it cannot edit."""

    fails: tuple[str, ...] = ()

    def plan(
        self,
        lm: LanguageModel,
        cases: Sequence[Case],
        seed: int = 0,
        *,
        together: bool = False,
        state: State | None = None,
    ) -> Plan:
        """Draw them; `contexts` tell which were planned at once."""
        del seed, state
        sizes = (lm.architecture.d_ff, lm.architecture.d_model)
        edits = {}
        for case in cases:
            draw = torch.Generator().manual_seed(ord(case.id))
            u, v = (torch.randn(n, generator=draw) for n in sizes)
            edits[case.id] = RankOne(1, u, v)
        failed = {one: "it cannot be" for one in self.fails if one in edits}
        edits = {name: edit for name, edit in edits.items() if name not in failed}
        told = ("+".join(case.id for case in cases),) if together else ()
        return Plan(edits, {name: name for name in edits}, failed=failed, contexts=told)


def test_each_has_the_edits_of_all_in_effect_and_others_their_own(some_lm: LanguageModel) -> None:
    cases = [ALONE, FIRST, SECOND]
    plan, rows = scored(some_lm, Noise(), cases, step=0, seed=0, regime="single")
    assert list(plan.edits) == ["c", "a", "b"]
    assert plan.contexts == ("a+b",)
    effects = {
        "c": [plan.edits["c"]],
        **dict.fromkeys("ab", [plan.edits["a"], plan.edits["b"]]),
    }
    for case, row in zip(cases, rows, strict=True):
        probe = case.edit
        assert probe is not None
        question = Question(probe.query, probe.old, probe.new)
        first, *more = effects[case.id]
        with applied(some_lm, first):
            if more:
                with applied(some_lm, more[0]):
                    (reply,) = ask(some_lm, [question])
            else:
                (reply,) = ask(some_lm, [question])
        assert row["post_log_prob_new"] == pytest.approx(reply.new.log_prob, abs=1e-5)
        assert row["together"] == case.together
        exported = in_effect(plan.edits, rows_frame(rows), case.id, "single")
        own = Plan({case.id: exported}, {case.id: case.id})
        (again,) = evaluate(some_lm, [case], own, "replace")
        assert again["post_log_prob_new"] == pytest.approx(row["post_log_prob_new"], abs=1e-9)


def test_where_one_fails_all_fail_and_others_do_not(some_lm: LanguageModel) -> None:
    cases = [ALONE, FIRST, SECOND]
    method = Noise(fails=("b",))
    plan, rows = scored(some_lm, method, cases, step=0, seed=0, regime="single")
    assert list(plan.edits) == ["c"]
    kinds = {row["case"]: (row["kind"], row["failure"]) for row in rows}
    assert kinds == {
        "c": ("edit", ""),
        "a": ("failed", "b, which it goes together with, failed"),
        "b": ("failed", "it cannot be"),
    }


def test_a_batch_is_planned_anew_without_those_that_fail(some_lm: LanguageModel) -> None:
    # What is planned at once is one change: it must not be what it was with those in it.
    cases = [FIRST, ALONE, replace(ALONE, id="d"), SECOND]
    plan, rows = scored(some_lm, Noise(fails=("b",)), cases, step=0, seed=0, regime="batch")
    assert plan.contexts == ("c+d",)
    assert list(plan.edits) == ["c", "d"]
    assert {row["case"] for row in rows if row["kind"] == "failed"} == {"a", "b"}


def test_one_fault_fails_one_edit_of_a_batch_that_stays_planned_at_once(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, unfit = Noise.plan, {"b"}

    def plan(
        self: Noise, lm: LanguageModel, cases: Sequence[Case], *args: Any, **more: Any
    ) -> Plan:
        found = {case.id for case in cases}
        if found & unfit or found == {"a", "c", "d"}:
            raise ValueError("unfit" if found & unfit else "not these at once")
        return original(self, lm, cases, *args, **more)

    monkeypatch.setattr(Noise, "plan", plan)
    alone = [replace(ALONE, id=name) for name in "abce"]
    done, _ = scored(some_lm, Noise(), alone, step=0, seed=0, regime="batch")
    assert (done.contexts, done.failed) == (("a+c+e",), {"b": "unfit"})
    alone = [replace(ALONE, id=name) for name in "acd"]
    done, _ = scored(some_lm, Noise(), alone, step=0, seed=0, regime="batch")
    assert (dict(done.edits), set(done.failed.values())) == ({}, {"not these at once"})


def test_they_are_never_cut_apart() -> None:
    cases = [FIRST, ALONE, replace(ALONE, id="d"), SECOND]
    steps = Steps(unit(Noise()), cases, "sequential", None)
    taken = []
    while steps:
        taken.append([case.id for case in steps.take(1)])
    assert taken == [["a", "b"], ["c"], ["d"]]
