"""Synonymy: whether the answer's synonym follows the edit."""

from __future__ import annotations

from dataclasses import dataclass

from kn_sweeps.metrics.answers import ScoredMetric, succeeded
from kn_sweeps.metrics.base import Estimate, Results


@dataclass(frozen=True, kw_only=True)
class Synonymy(ScoredMetric):
    """`synonymy` and `synonymy_gated`: success on the probes that ask for the synonym.

    Source: Niu et al. 2024: who now works in linguistics is now a linguist.
    """

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the synonym probes of a run."""
        rows = results.of("synonym")
        if rows.empty:
            return {}
        success = succeeded(rows, results.intent, self.scorer)
        return self._with_gated("synonymy", rows, success, results)
