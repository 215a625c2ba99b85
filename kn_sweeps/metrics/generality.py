"""Generality: whether an edit holds on phrasings no method has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.metrics.answers import ScoredMetric, succeeded
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import SHARE, Quantity


@dataclass(frozen=True, kw_only=True)
class Generality(ScoredMetric):
    """`generality`, the success on held-out phrasings, averaged within each edit first.

    Relations have different numbers of phrasings; without the inner average the relation with
    the most would decide.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
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

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the rephrased probes of a run."""
        rows = results.of("rephrase")
        if rows.empty:
            return {}
        success = succeeded(rows, results.intent, self.scorer)
        return {"generality": self._mean(success, rows["edit"], per_cluster=True)}
