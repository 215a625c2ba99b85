"""Portability: whether what should follow from an edit does follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kn_sweeps.metrics.answers import GATE, GATED, ScoredMetric, Scorer, by_every_scorer, succeeded
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import SHARE, Quantity

_FOLLOWS = Quantity(
    name="portability",
    meaning="what should follow from the edit does: a hop further, an alias, a relation of the "
    "new answer",
    unit=SHARE,
    counts="consequences",
    better="higher",
    headline=True,
)


@dataclass(frozen=True, kw_only=True)
class Portability(ScoredMetric):
    """`portability`, `portability_gated`, and `portability_<group>` for each kind of consequence.

    Source: Yao et al. 2023, and the multi-hop accuracy of Zhong et al. 2023. Deviation: a question
    is one probe; MQuAKE counts a case where any of its three wordings is answered.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = by_every_scorer(
        _FOLLOWS,
        _FOLLOWS.under(GATE, GATED),
        Quantity(
            name="portability_<group>",
            meaning="portability of the consequences <group>",
            unit=SHARE,
            counts="consequences of the group",
            better="higher",
        ),
    )

    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score the consequences of a run."""
        rows = results.of("portability")
        success = succeeded(rows, results.intent, scorer)
        groups = {
            f"portability_{group}": np.where(rows["group"] == group, success, np.nan)
            for group in sorted(set(rows["group"]) - {""})
        }
        whole = self._with_gated("portability", rows, success, results, scorer)
        return {**whole, **self._means(rows, groups)}
