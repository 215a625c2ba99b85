"""How far edits have moved the weights they touch, relative to what those were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kn_sweeps.cases import Case
from kn_sweeps.edits import Edit, NeuronScale, changes, parts
from kn_sweeps.interventions import applied, written_by
from kn_sweeps.measurements.base import Finding, Measure
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.plans import Plan
from kn_sweeps.row import Row


@dataclass(frozen=True)
class WeightGrowth:
    """The norm of what an edit adds to the weights, as a share of theirs.

        sqrt(sum_l |Delta_l|^2 / sum_l |W_l|^2)   over the output projections l that it touches

    A record a case: `edit`, the id of its edit, and `growth`. What counts is what is in effect when
    the case is scored: in a sequence, the sum of all edits so far. An edit that changes no weights
    has 0, and one that acts only where an answer is read has no record.
    """

    def begin(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Measure:
        """There is nothing to begin with."""
        del cases, seed

        def measure(cases: Sequence[Case], plan: Plan, rows: Sequence[Row]) -> list[Finding]:
            failed = {row["case"] for row in rows if row["kind"] == "failed"}
            effects = {case: plan.effect_on(case.id) for case in cases if case.id not in failed}
            effects = {case: one for case, one in effects.items() if not _where_read(one)}
            grown = {one: _growth(lm, one) for one in dict.fromkeys(effects.values())}
            return [
                {
                    "case": case.id,
                    "source": case.source,
                    "edit": plan.edit_of[case.id],
                    "growth": grown[effect],
                }
                for case, effect in effects.items()
            ]

        return measure


def _where_read(edit: Edit) -> bool:
    return any(isinstance(part, NeuronScale) and part.where == "read" for part in parts(edit))


def _growth(lm: LanguageModel, edit: Edit) -> float:
    layers = sorted({layer for layer, _, _ in changes(edit) if isinstance(layer, int)})
    added = whole = 0.0
    for layer in layers:
        neurons = range(lm.architecture.d_ff)
        before = written_by(lm, layer, neurons).double()
        with applied(lm, edit):
            after = written_by(lm, layer, neurons).double()
        added += float((after - before).square().sum())
        whole += float(before.square().sum())
    return (added / whole) ** 0.5 if whole else 0.0
