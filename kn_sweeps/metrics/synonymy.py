"""Synonymy: whether the answer's synonym follows the edit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.metrics.answers import GATE, GATED, ScoredMetric, Scorer, by_every_scorer, succeeded
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import SHARE, Quantity

_FOLLOWS = Quantity(
    name="synonymy",
    meaning="the answer's synonym follows",
    unit=SHARE,
    counts="synonym probes",
    better="higher",
    headline=True,
)


@dataclass(frozen=True, kw_only=True)
class Synonymy(ScoredMetric):
    """`synonymy` and `synonymy_gated`: success on the probes that ask for the synonym.

    Source: Niu et al. 2024: who now works in linguistics is now a linguist.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = by_every_scorer(
        _FOLLOWS,
        _FOLLOWS.under(GATE, GATED),
    )

    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score the synonym probes of a run."""
        rows = results.of("synonym")
        success = succeeded(rows, results.intent, scorer)
        return self._with_gated("synonymy", rows, success, results, scorer)
