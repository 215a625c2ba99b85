"""Symmetry: whether a one-to-one fact was also edited when read backwards.

Source: Niu et al. 2024, the bijective symmetry test. Deviation: its three outcomes are kept
apart instead of being folded into one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.cases import RESIDUE, REVERSED
from kn_sweeps.metrics.answers import (
    GATE,
    GATED,
    ScoredMetric,
    Scorer,
    answered,
    by_every_scorer,
    succeeded,
)
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import SHARE, Quantity

_BACKWARDS = Quantity(
    name="symmetry",
    meaning="the fact holds read backwards",
    unit=SHARE,
    counts="reversals",
    better="higher",
    headline=True,
)
# An edit that erases says nothing of the new object: staying is then no failure.
_STALE = Quantity(
    name="symmetry_stale",
    meaning="backwards, the new object still answers its former subject; a failure of replace",
    unit=SHARE,
    counts="reversals",
)
_RESIDUE = Quantity(
    name="symmetry_residue",
    meaning="backwards, the old object still answers the subject",
    unit=SHARE,
    counts="reversals of the old object",
    better="lower",
)


@dataclass(frozen=True, kw_only=True)
class Symmetry(ScoredMetric):
    """`symmetry`, `symmetry_stale` and `symmetry_residue`, with `_gated` forms.

    An edit s -> o* entails that "o* r^-1" answers s (the reversed probe). Erasing s -> o says
    nothing about o*; it entails that "o r^-1" answers s no longer, so there the success is read
    off the residue probe.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = by_every_scorer(
        _BACKWARDS,
        _BACKWARDS.under(GATE, GATED),
        _STALE,
        _RESIDUE,
        _RESIDUE.under(GATE, GATED),
    )

    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score the reversals of a run."""
        asked_new = results.of("reversal", REVERSED)
        asked_old = results.of("reversal", RESIDUE)
        rows = asked_new if results.intent == "replace" else asked_old
        success = succeeded(rows, results.intent, scorer)
        stale = answered(asked_new, "post", "old", scorer)
        residue = answered(asked_old, "post", "old", scorer)
        return {
            **self._with_gated("symmetry", rows, success, results, scorer),
            **self._means(asked_new, {"symmetry_stale": stale}),
            **self._with_gated("symmetry_residue", asked_old, residue, results, scorer),
        }
