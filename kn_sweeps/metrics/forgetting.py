"""Forgetting: what is left of edits once others were made on top of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.metrics.answers import ScoredMetric, Scorer, by_every_scorer, succeeded
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.generality import Generality
from kn_sweeps.metrics.locality import Locality
from kn_sweeps.metrics.quantities import SHARE, Quantity
from kn_sweeps.metrics.reliability import Reliability

CRITERIA: tuple[type[Reliability | Generality | Locality], ...] = (
    Reliability,
    Generality,
    Locality,
)
"""What an edit is judged by; the first number of each is the one that counts."""
_AFTER_ALL = "after_all"


def criteria() -> list[str]:
    """The names of those three numbers."""
    return [cls.quantities[0].name for cls in CRITERIA]


@dataclass(frozen=True, kw_only=True)
class Forgetting(ScoredMetric):
    """`forgetting`, the success lost on edit probes, and each criterion once all edits are made.

    Only a run with `regime=sequential` has them.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = by_every_scorer(
        Quantity(
            name="forgetting",
            meaning="success right after an edit minus success after all edits",
            unit=SHARE,
            counts="edit probes",
            better="lower",
        ),
        *(
            cls.quantities[0].under(_AFTER_ALL, "once all edits of the sequence are made")
            for cls in CRITERIA
        ),
    )

    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score the end of a sequence, and compare it with the time right after each edit."""
        last = results.after_all()
        edits = last.of("edit")
        key = ["case", "probe"]
        first = results.of("edit").set_index(key).loc[list(map(tuple, edits[key].to_numpy()))]
        lost = succeeded(first.reset_index(), results.intent, scorer) - succeeded(
            edits, results.intent, self.scorer
        )
        scored = {
            **Reliability(scorer=scorer, bootstrap=self.bootstrap)(last),
            **Generality(scorer=scorer, bootstrap=self.bootstrap)(last),
            **Locality(bootstrap=self.bootstrap)(last),
        }
        after_all = {f"{name}_{_AFTER_ALL}": scored[name] for name in criteria() if name in scored}
        return self._means(edits, {"forgetting": lost}) | after_all
