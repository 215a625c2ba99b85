"""Generality: whether an edit holds on phrasings no method has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.metrics.answers import ScoredMetric, Scorer, by_every_scorer, succeeded
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import SHARE, Quantity


@dataclass(frozen=True, kw_only=True)
class Generality(ScoredMetric):
    """`generality`, the success on held-out phrasings, averaged within each edit first.

    Relations have different numbers of phrasings; without the inner average the relation with
    the most would decide.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = by_every_scorer(
        Quantity(
            name="generality",
            meaning="the edit does what it is for on phrasings no method has seen, "
            "every edit one vote",
            unit=SHARE,
            counts="rephrased probes",
            better="higher",
            headline=True,
        ),
    )

    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score the rephrased probes of a run."""
        rows = results.of("rephrase")
        success = succeeded(rows, results.intent, scorer)
        return self._means(rows, {"generality": success}, per_cluster=True)
