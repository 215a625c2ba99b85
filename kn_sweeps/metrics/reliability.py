"""Reliability: whether an edit does what it was for on its own prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.metrics.answers import ScoredMetric, Scorer, answered, by_every_scorer, succeeded
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import SHARE, Quantity


@dataclass(frozen=True, kw_only=True)
class Reliability(ScoredMetric):
    """`reliability`, the success on edit probes, and `known`, the share answered before."""

    quantities: ClassVar[tuple[Quantity, ...]] = by_every_scorer(
        Quantity(
            name="reliability",
            meaning="the edit does what it is for on its own prompt",
            unit=SHARE,
            counts="edit probes",
            better="higher",
            headline=True,
        ),
        Quantity(
            name="known",
            meaning="share of edit prompts whose old answer the unedited model gives",
            unit=SHARE,
            counts="edit probes",
        ),
    )

    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score the edit probes of a run."""
        rows = results.of("edit")
        success = succeeded(rows, results.intent, scorer)
        known = answered(rows, "pre", "old", scorer)
        return self._means(rows, {"reliability": success, "known": known})
