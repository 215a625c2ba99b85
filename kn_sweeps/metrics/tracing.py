"""Causal tracing: what corrupting the subject costs, and what restored states bring back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kn_sweeps.cases import LAST, READ
from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import PROBABILITY, Quantity

NAME = "tracing"
"""The measurement whose records are read."""
ROLES = {LAST: "subject", READ: "read"}


@dataclass(frozen=True, kw_only=True)
class Tracing(Metric):
    """`total_effect`, and `indirect_effect_<component>_<role>` at the layer where it is largest.

    The roles are `subject` (its last token) and `read` (where the answer is read). The layer was
    chosen on the same cases, so its value leans upwards; docs/studies.md has all layers.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="total_effect",
            meaning="probability of the answer that corrupting the subject takes",
            unit=PROBABILITY,
            counts="traced cases",
        ),
        Quantity(
            name="indirect_effect_<component>_subject",
            meaning="probability that restoring <component> at the subject's last token "
            "brings back, at its best layer",
            unit=PROBABILITY,
            counts="traced cases whose subject does not end the prompt",
        ),
        Quantity(
            name="indirect_effect_<component>_read",
            meaning="probability that restoring <component> where the answer is read "
            "brings back, at its best layer",
            unit=PROBABILITY,
            counts="traced cases",
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Average over the traced cases."""
        records = results.measurements.get(NAME)
        if records is None or records.empty:
            return {}
        cases = records.drop_duplicates("case")
        estimates = {"total_effect": self._mean(cases["clean"] - cases["corrupted"], cases["case"])}
        for (component, role), rows in records.groupby(["component", "role"]):
            if role in ROLES:
                best = rows.groupby("layer")["effect"].mean().idxmax()
                at_best = rows[rows["layer"] == best]
                name = f"indirect_effect_{component}_{ROLES[role]}"
                estimates[name] = self._mean(at_best["effect"], at_best["case"])
        return estimates
