"""What is in effect when an edit is scored: it alone, its batch, or all that came before.

Cases are cut into steps. In `single`, a step is a chunk of cases whose edits are scored one by
one, all in one batch. In `batch` and `sequential` it is the cases whose edits are made at once; in
`sequential` they are made on the model as edited so far, and when all are made every case is
scored again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch

from kn_sweeps.cases import Case
from kn_sweeps.edits import Edit, joined
from kn_sweeps.evaluate import evaluate
from kn_sweeps.interventions import applied
from kn_sweeps.methods.base import Method, Plan
from kn_sweeps.models.language_model import LanguageModel

Regime = Literal["single", "batch", "sequential"]
Record = dict[str, Any]

CHUNK = 16
"""Cases saved together; groups that share an edit are never split."""

log = logging.getLogger(__name__)


def steps(
    method: Method, cases: Sequence[Case], regime: Regime, edits_per_batch: int | None
) -> list[list[Case]]:
    """Cut cases into steps, keeping those that share an edit together.

    They depend on the config only, so a continued run makes the same ones.
    """
    size = {"single": CHUNK, "batch": len(cases), "sequential": 1}[regime]
    return list(_cut(method, cases, edits_per_batch or size))


def scored(
    lm: LanguageModel,
    method: Method,
    cases: Sequence[Case],
    *,
    seed: int,
    regime: Regime,
    before: Sequence[Edit],
) -> tuple[Plan, list[Record]]:
    """Do one step.

    Args:
        lm: The model, unchanged.
        method: Plans the edits.
        cases: The step's.
        seed: Of all randomness.
        regime: What is in effect when they are scored.
        before: The edits of earlier steps, where they stay in effect.

    Returns:
        The step's own edits, and its rows.
    """
    if regime == "single":
        plan = _planned(lm, method, cases, seed, together=False)
        return plan, evaluate(lm, cases, plan, method.intent)
    so_far = joined(before)
    with applied(lm, so_far):
        plan = _planned(lm, method, cases, seed, together=len(cases) > 1)
    effect = joined([so_far, *plan.edits.values()])
    return plan, evaluate(lm, cases, _all_with(plan, effect), method.intent)


def after_all(method: Method, cases: Sequence[Case], edits: Mapping[str, Edit]) -> list[list[Case]]:
    """The cases that have an edit, cut into chunks to be scored once all edits are made."""
    return list(_cut(method, [case for case in cases if method.group(case) in edits], CHUNK))


def scored_after_all(
    lm: LanguageModel, method: Method, cases: Sequence[Case], edits: Mapping[str, Edit]
) -> list[Record]:
    """Score some cases with all edits in effect.

    Args:
        lm: The model, unchanged.
        method: Whose edits they are.
        cases: Those to score.
        edits: All edits, by id.
    """
    plan = Plan(edits, {case.id: method.group(case) for case in cases})
    return evaluate(lm, cases, _all_with(plan, joined(edits.values())), method.intent, after="all")


def _all_with(plan: Plan, effect: Edit) -> Plan:
    """The same plan with one edit in effect for every case."""
    return replace(plan, edits=dict.fromkeys(plan.edits, effect))


def _planned(
    lm: LanguageModel, method: Method, cases: Sequence[Case], seed: int, *, together: bool
) -> Plan:
    """Plan; where that fails as a whole, each group by itself, so that one fault fails one edit."""
    try:
        return method.plan(lm, cases, seed, together=together)
    except ValueError as error:
        groups: dict[str, list[Case]] = {}
        for case in cases:
            groups.setdefault(method.group(case), []).append(case)
        if len(groups) == 1:
            log.warning("no edit: %s", error)
            return Plan({}, {}, failed={case.id: str(error) for case in cases})
        return merged([_planned(lm, method, g, seed, together=together) for g in groups.values()])


def merged(plans: Sequence[Plan]) -> Plan:
    """Several plans as one."""
    return Plan(
        {name: edit for plan in plans for name, edit in plan.edits.items()},
        {case: name for plan in plans for case, name in plan.edit_of.items()},
        tuple(found for plan in plans for found in plan.located),
        _joined_scores(plans),
        {case: message for plan in plans for case, message in plan.failed.items()},
        next((plan.contexts for plan in plans if plan.contexts), ()),
    )


def _joined_scores(plans: Sequence[Plan]) -> dict[str, Any]:
    scores: dict[str, list[Any]] = {}
    for plan in plans:
        for source, rows in plan.attributions.items():
            scores.setdefault(source, []).append(rows)
    return {source: torch.cat(rows) for source, rows in scores.items()}


def in_effect(
    edits: Mapping[str, Edit],
    edit_of: Mapping[str, str],
    case: str,
    regime: Regime,
    edits_per_batch: int | None,
) -> Edit:
    """What was in effect when `case` was scored right after its edit.

    Args:
        edits: A run's edits, by id, in the order in which they were made.
        edit_of: Every case and the id of its edit, in the order of the run.
        case: Which case.
        regime: The run's.
        edits_per_batch: The run's.
    """
    name = edit_of[case]
    if regime == "single":
        return edits[name]
    groups: dict[str, list[str]] = {}
    for one, edit in edit_of.items():
        groups.setdefault(edit, []).append(one)
    size = edits_per_batch or (len(edit_of) if regime == "batch" else 1)
    batches = list(_batches(groups, size))
    (at,) = (n for n, batch in enumerate(batches) if name in batch)
    names = batches[at] if regime == "batch" else [x for batch in batches[: at + 1] for x in batch]
    return joined(edits[name] for name in names if name in edits)


def _cut(method: Method, cases: Sequence[Case], size: int) -> Iterator[list[Case]]:
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(method.group(case), []).append(case)
    for names in _batches(groups, size):
        yield [case for name in names for case in groups[name]]


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
