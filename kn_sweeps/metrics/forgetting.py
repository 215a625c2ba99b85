"""Forgetting: what is left of edits once others were made on top of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from kn_sweeps.metrics.answers import ScoredMetric, Scorer, by_every_scorer, succeeded
from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Estimate, FloatArray
from kn_sweeps.metrics.generality import Generality
from kn_sweeps.metrics.locality import Locality
from kn_sweeps.metrics.portability import Portability
from kn_sweeps.metrics.quantities import SHARE, Quantity
from kn_sweeps.metrics.reliability import Reliability

if TYPE_CHECKING:
    import pandas as pd

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

    Only a run with `regime=sequential` has them. With `evaluate_every` it has each criterion, and
    what still holds, at every checkpoint as well.
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
        *(
            cls.quantities[0].under("after_<edits>", "once <edits> edits of the sequence are made")
            for cls in (*CRITERIA, Portability)
        ),
        Quantity(
            name="held_after_<edits>",
            meaning="of the edits that succeeded when they were made, those that still do once "
            "<edits> edits of the sequence are made",
            unit=SHARE,
            counts="edit probes that succeeded",
            better="higher",
        ),
    )

    def _scored(self, results: Results, scorer: Scorer) -> dict[str, Estimate]:
        """Score the end of a sequence, and compare it with the time right after each edit."""
        last = results.after_all()
        edits, first, now = _then_and_now(results, last, scorer)
        found = self._means(edits, {"forgetting": first - now})
        found |= self._criteria(last, scorer, criteria(), _AFTER_ALL)
        for made, then in results.at_checkpoints().items():
            edits, first, now = _then_and_now(results, then, scorer)
            held = np.where(first > 0, now, np.nan)
            found |= self._criteria(then, scorer, [*criteria(), "portability"], f"after_{made}")
            found |= self._means(edits, {f"held_after_{made}": held})
        return found

    def _criteria(
        self, results: Results, scorer: Scorer, names: Sequence[str], ending: str
    ) -> dict[str, Estimate]:
        """What edits are judged by, under names with an ending."""
        scored = {
            **Reliability(scorer=scorer, bootstrap=self.bootstrap)(results),
            **Generality(scorer=scorer, bootstrap=self.bootstrap)(results),
            **Locality(bootstrap=self.bootstrap)(results),
            **Portability(scorer=scorer, bootstrap=self.bootstrap)(results),
        }
        return {f"{name}_{ending}": scored[name] for name in names if name in scored}


def _then_and_now(
    results: Results, later: Results, scorer: Scorer
) -> tuple[pd.DataFrame, FloatArray, FloatArray]:
    """The edit probes that were asked later, and their success right after the edit and then."""
    edits = later.of("edit")
    key = ["case", "probe"]
    first = results.of("edit").set_index(key).loc[list(map(tuple, edits[key].to_numpy()))]
    return (
        edits,
        succeeded(first.reset_index(), results.intent, scorer),
        succeeded(edits, results.intent, scorer),
    )
