"""Weight growth: how far edits have moved the weights they touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import Quantity

NAME = "weight_growth"
"""The measurement whose records are read."""

_GROWTH = Quantity(
    name=NAME,
    meaning="norm of the change of the weights that are touched, relative to theirs",
    unit="multiple of their norm",
    counts="edits",
    better="lower",
)


@dataclass(frozen=True, kw_only=True)
class WeightGrowth(Metric):
    """`weight_growth`, averaged over edits as each was scored, and at checkpoints of a sequence."""

    quantities: ClassVar[tuple[Quantity, ...]] = (
        _GROWTH,
        _GROWTH.under("after_<edits>", "once <edits> edits of the sequence are made"),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Average over the edits that were measured."""
        records = results.measurements.get(NAME)
        if records is None or records.empty:
            return {}
        edits = records.drop_duplicates("edit")
        found = {NAME: self._mean(edits["growth"], edits["edit"])}
        for number, then in results.records_at_checkpoints(NAME).items():
            found[f"{NAME}_after_{number}"] = self._mean(then["growth"], then["edit"])
        return found
