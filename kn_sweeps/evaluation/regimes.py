"""What is in effect when an edit is scored: it alone, its batch, or all that came before.

Cases are cut into steps. In `single`, a step is a chunk of cases whose edits are scored one by
one, all in one batch; those of cases that go `together` are one. In `batch` and `sequential` it is
the cases whose edits are made at once; in `sequential` they are made on the model as edited so far,
some cases are scored again at checkpoints on the way, and when all are made every one is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

from kn_sweeps.cases import Case
from kn_sweeps.config import Regime
from kn_sweeps.edits import NO_EDIT, Edit, State, joined
from kn_sweeps.evaluation.evaluate import ASKED_ONLY, Freely, evaluate
from kn_sweeps.interventions import applied
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 16
"""Cases saved together; groups that share an edit are never split."""

STEP_S = 300.0
"""Seconds a step should take at most: what is lost when a process is stopped."""

Group = Callable[[Case], str]
"""What cases have in common that are never split: the id of the edit that covers them, say."""

log = logging.getLogger(__name__)
T = TypeVar("T")


def unit(method: Method) -> Group:
    """What is planned and scored as one: the cases of one edit, or those that go together."""
    return lambda case: case.together or method.group(case)


class Steps:
    """Cuts cases into steps, one after the other, keeping those that share an edit together.

    In `single` a first step of one edit and a second of four tell how long a case takes. From then
    on steps are of `CHUNK` cases, or of half, a quarter, ... of that where those would take longer
    than `step_s`. So steps depend on the config alone unless a case takes longer than
    `step_s / CHUNK`; which cases share batches with which decides the last digits of rows.
    """

    def __init__(
        self,
        group: Group,
        cases: Sequence[Case],
        regime: Regime,
        edits_per_batch: int | None,
        step_s: float = STEP_S,
    ) -> None:
        """Begin with the first; cases of one `group` stay together."""
        self._left = list(_groups(group, cases).values())[::-1]
        self._single, self._step_s = regime == "single", step_s
        whole = {"single": CHUNK, "batch": len(cases), "sequential": 1}[regime]
        self._size = edits_per_batch or whole
        self.taken = 0

    def __bool__(self) -> bool:
        """Whether there is another step."""
        return bool(self._left)

    def take(self, size: int) -> list[Case]:
        """The next groups that together have `size` cases or just more."""
        step: list[Case] = []
        while self._left and (not step or len(step) < size):
            step += self._left.pop()
        self.taken += len(step)
        return step

    def size(self, number: int, last: Mapping[str, Any] | None, following: int | None) -> int:
        """How many cases step `number` should have.

        Args:
            number: Counted from 0.
            last: The step before: its `cases`, and the `seconds` they took.
            following: The number of the case that the step behind it, which is done, begins with.
        """
        if not self._single:
            return self._size
        if following is not None:
            return following - self.taken
        size = min(self._size, int(4**number))
        if last is not None:
            fits = self._step_s / max(last["seconds"] / last["cases"], 1e-9)
            while size > max(1, fits):
                size = -(-size // 2)
        return size


def scored(
    lm: LanguageModel,
    method: Method,
    cases: Sequence[Case],
    *,
    step: int,
    seed: int,
    regime: Regime,
    before: Edit = NO_EDIT,
    made: int = 0,
    state: State | None = None,
    freely: Freely = ASKED_ONLY,
) -> tuple[Plan, list[Row]]:
    """Do one step.

    Args:
        lm: The model, unchanged.
        method: Plans the edits.
        cases: The step's.
        step: Its number, from 0.
        seed: Of all randomness.
        regime: What is in effect when they are scored.
        before: The edits of earlier steps as one, where they stay in effect.
        made: How many those are.
        state: What those left to later ones; None but in a sequence.
        freely: How far the model answers in its own words.

    Returns:
        The step's own edits with what is in effect for each, and its rows.
    """
    if regime == "single":
        plan, effect = _each_alone(lm, method, cases, seed)
        # Each edit alone: where a step ends is only a matter of time, and no row may tell.
        rows = evaluate(lm, cases, effect, method.intent, step=0, freely=freely)
        return replace(plan, effects=effect.edits), rows
    with applied(lm, before):
        plan = _whole(lm, method, cases, seed, together=len(cases) > 1, state=state)
    effect = _all_with(plan, joined([before, *plan.edits.values()]))
    made = made + len(plan.edits) if regime == "sequential" else 0
    rows = evaluate(lm, cases, effect, method.intent, step=step, made=made, freely=freely)
    return replace(plan, effects=effect.edits), rows


def _each_alone(
    lm: LanguageModel, method: Method, cases: Sequence[Case], seed: int
) -> tuple[Plan, Plan]:
    """Edits that are scored one by one, and the same with what is in effect for each case."""
    groups = _groups(lambda case: case.together, cases)
    plans, effects = [], []
    for together, some in groups.items():
        at_once = bool(together) and len(some) > 1
        plan = _whole(lm, method, some, seed, together=at_once)
        plans.append(plan)
        effects.append(_all_with(plan, joined(plan.edits.values())) if together else plan)
    return merged(plans), merged(effects)


def in_chunks(method: Method, cases: Sequence[Case]) -> list[list[Case]]:
    """Cases that have an edit, cut into chunks to be scored once more."""
    return list(_cut(method, cases, CHUNK))


def scored_again(
    lm: LanguageModel,
    method: Method,
    cases: Sequence[Case],
    so_far: Edit,
    *,
    after: Literal["checkpoint", "all"],
    step: int,
    made: int,
    freely: Freely = ASKED_ONLY,
) -> list[Row]:
    """Score some cases with the edits of a sequence in effect.

    Args:
        lm: The model, unchanged.
        method: Whose edits they are.
        cases: Those to score; each has an edit.
        so_far: All edits so far as one.
        after: Whether they are all, or those up to a checkpoint.
        step: The number of the last step, from 0.
        made: How many edits there are.
        freely: How far the model answers in its own words.
    """
    names = {case.id: method.group(case) for case in cases}
    effect = Plan(dict.fromkeys(names.values(), so_far), names)
    return evaluate(
        lm, cases, effect, method.intent, after=after, step=step, made=made, freely=freely
    )


def _all_with(plan: Plan, effect: Edit) -> Plan:
    """The same plan with one edit in effect for every case."""
    return replace(plan, edits=dict.fromkeys(plan.edits, effect))


def _planned(
    lm: LanguageModel,
    method: Method,
    cases: Sequence[Case],
    seed: int,
    *,
    together: bool,
    state: State | None = None,
) -> Plan:
    """Plan; where that fails as a whole, without what fails by itself: one fault fails one edit.

    Edits that are made at once stay planned at once: where each can be made by itself and they
    cannot be made together, there is none.
    """
    try:
        return method.plan(lm, cases, seed, together=together, state=state)
    except ValueError as error:
        groups = _groups(method.group, cases)
        if len(groups) == 1:
            return _none(method, cases, error)
        plans, faults = [], []
        for group in groups.values():
            try:
                plans.append(method.plan(lm, group, seed, together=together, state=state))
            except ValueError as fault:
                faults.append(_none(method, group, fault))
        if not together:
            return merged([*plans, *faults])
        if not faults:
            return _none(method, cases, error)
        failed = {case for plan in faults for case in plan.failed}
        left = [case for case in cases if case.id not in failed]
        again = [_planned(lm, method, left, seed, together=True, state=state)] if left else []
        return merged([*again, *faults])


def _none(method: Method, cases: Sequence[Case], error: ValueError) -> Plan:
    """A plan without edits."""
    log.warning("no edit: %s", error)
    return Plan({}, {}, failed={case.id: str(error) for case in cases}, intent=method.intent)


def _whole(
    lm: LanguageModel,
    method: Method,
    cases: Sequence[Case],
    seed: int,
    *,
    together: bool,
    state: State | None = None,
) -> Plan:
    """Plan without the cases that go together with one that fails.

    The others are planned anew: what was planned at once depends on all that it was planned for.
    """
    plan = _planned(lm, method, cases, seed, together=together, state=state)
    broken = {case.together: case.id for case in cases if case.together and case.id in plan.failed}
    lost = {
        case.id: f"{broken[case.together]}, which it goes together with, failed"
        for case in cases
        if case.together in broken and case.id not in plan.failed
    }
    if not lost:
        return plan
    left = [case for case in cases if case.id not in plan.failed and case.id not in lost]
    kept = Plan({}, {}, intent=plan.intent)
    if left:
        at_once = together and len(left) > 1
        kept = _whole(lm, method, left, seed, together=at_once, state=state)
    return replace(kept, failed={**plan.failed, **lost, **kept.failed})


def merged(plans: Sequence[Plan]) -> Plan:
    """Several plans as one."""
    return Plan(
        edits=_union(plan.edits for plan in plans),
        edit_of=_union(plan.edit_of for plan in plans),
        located=tuple(found for plan in plans for found in plan.located),
        attributions=_joined_scores(plans),
        failed=_union(plan.failed for plan in plans),
        contexts=next((plan.contexts for plan in plans if plan.contexts), ()),
        intent=plans[0].intent,
        effects=_union(plan.effects for plan in plans),
        state=tuple(left for plan in plans for left in plan.state),
    )


def _union(mappings: Iterable[Mapping[str, T]]) -> dict[str, T]:
    return {name: value for mapping in mappings for name, value in mapping.items()}


def _joined_scores(plans: Sequence[Plan]) -> dict[str, Any]:
    scores: dict[str, list[Any]] = {}
    for plan in plans:
        for source, rows in plan.attributions.items():
            scores.setdefault(source, []).append(rows)
    return {source: torch.cat(rows) for source, rows in scores.items()}


def in_effect(edits: Mapping[str, Edit], rows: pd.DataFrame, case: str, regime: Regime) -> Edit:
    """What was in effect when `case` was scored right after its edit.

    Args:
        edits: A run's edits, by id, in the order in which they were made.
        rows: Its rows.
        case: Which case; it could be edited.
        regime: The run's.
    """
    own = rows[rows["after"] == "edit"]
    of_case = own[own["case"] == case].iloc[0]
    if regime == "single" and not of_case["together"]:
        return edits[of_case["edit"]]
    if regime == "single":
        there = own[own["together"] == of_case["together"]]
        return joined(edits[name] for name in dict.fromkeys(there["edit"]) if name in edits)
    step = of_case["step"]
    there = own[own["step"] == step] if regime == "batch" else own[own["step"] <= step]
    return joined(edits[name] for name in dict.fromkeys(there["edit"]) if name in edits)


def _cut(method: Method, cases: Sequence[Case], size: int) -> Iterator[list[Case]]:
    groups = _groups(method.group, cases)
    for names in _batches(groups, size):
        yield [case for name in names for case in groups[name]]


def _groups(group: Group, cases: Sequence[Case]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(group(case), []).append(case)
    return groups


def _batches(groups: Mapping[str, Sequence[object]], size: int) -> Iterator[list[str]]:
    """Names of groups that together have `size` members or just more."""
    names: list[str] = []
    for name in groups:
        names.append(name)
        if sum(len(groups[one]) for one in names) >= size:
            yield names
            names = []
    if names:
        yield names
