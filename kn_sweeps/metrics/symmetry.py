"""Symmetry: whether a one-to-one fact was also edited when read backwards.

Source: Niu et al. 2024, the bijective symmetry test. Deviation: its three outcomes are kept
apart instead of being folded into one number.
"""

from __future__ import annotations

from dataclasses import dataclass

from kn_sweeps.cases import RESIDUE, REVERSED
from kn_sweeps.metrics.answers import ScoredMetric, answered, succeeded
from kn_sweeps.metrics.base import Estimate, Results


@dataclass(frozen=True, kw_only=True)
class Symmetry(ScoredMetric):
    """`symmetry`, `symmetry_stale` and `symmetry_residue`, with `_gated` forms.

    An edit s -> o* entails that "o* r^-1" answers s (the reversed probe). Erasing s -> o says
    nothing about o*; it entails that "o r^-1" answers s no longer, so there the success is read
    off the residue probe.
    """

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
