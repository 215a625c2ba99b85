"""Reliability: whether an edit does what it was for on its own prompt."""

from __future__ import annotations

from dataclasses import dataclass

from kn_sweeps.metrics.answers import ScoredMetric, answered, succeeded
from kn_sweeps.metrics.base import Estimate, Results


@dataclass(frozen=True, kw_only=True)
class Reliability(ScoredMetric):
    """`reliability`, the success on edit probes, and `known`, the share answered before."""

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the edit probes of a run."""
        rows = results.of("edit")
        if rows.empty:
            return {}
        success = succeeded(rows, results.intent, self.scorer)
        known = answered(rows, "pre", "old", self.scorer)
        return {
            "reliability": self._mean(success, rows["edit"]),
            "known": self._mean(known, rows["edit"]),
        }
