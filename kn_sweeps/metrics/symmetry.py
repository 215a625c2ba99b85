"""Symmetry: whether a one-to-one fact was also edited when read backwards.

Source: Niu et al. 2024, the bijective symmetry test. Deviation: its three outcomes are kept
apart instead of being folded into one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.cases import RESIDUE, REVERSED
from kn_sweeps.metrics.answers import GATE, GATED, ScoredMetric, answered, succeeded
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

    quantities: ClassVar[tuple[Quantity, ...]] = (
        _BACKWARDS,
        _BACKWARDS.under(GATE, GATED),
        _STALE,
        _RESIDUE,
        _RESIDUE.under(GATE, GATED),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the reversals of a run."""
        asked_new = results.of("reversal", REVERSED)
        asked_old = results.of("reversal", RESIDUE)
        estimates: dict[str, Estimate] = {}
        if not results.of("reversal").empty:
            rows = asked_new if results.intent == "replace" else asked_old
            success = succeeded(rows, results.intent, self.scorer)
            estimates |= self._with_gated("symmetry", rows, success, results)
        if not asked_new.empty:
            stale = answered(asked_new, "post", "old", self.scorer)
            estimates["symmetry_stale"] = self._mean(stale, asked_new["edit"])
        if not asked_old.empty:
            residue = answered(asked_old, "post", "old", self.scorer)
            estimates |= self._with_gated("symmetry_residue", asked_old, residue, results)
        return estimates
