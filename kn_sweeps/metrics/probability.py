"""Probability: how far an edit moved the probability of the old answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import NATS, Quantity


@dataclass(frozen=True, kw_only=True)
class Probability(Metric):
    """`probability_change`, (post - pre) / pre of P(old), and `log_probability_change`, in nats.

    A relative change is bounded by -1 below and by nothing above, so a few probes that began
    near zero can carry its mean; the log change has no such tail.

    Attributes:
        relative_to: What the change is a share of: `pre`, or the `smaller` of the two, as Niu et
            al.'s code has it, which makes a change and its reverse equally large.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="probability_change",
            meaning="mean relative change of the old answer's probability",
            unit="relative change",
            counts="edit probes",
        ),
        Quantity(
            name="log_probability_change",
            meaning="mean change of the old answer's log-probability",
            unit=NATS,
            counts="edit probes",
        ),
    )

    relative_to: Literal["pre", "smaller"] = "pre"

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the edit probes of a run."""
        rows = results.of("edit")
        if rows.empty:
            return {}
        change = (rows["post_log_prob_old"] - rows["pre_log_prob_old"]).to_numpy(np.float64)
        # From the logs: P itself underflows to 0 for long targets, and 0 / 0 is no change at all.
        with np.errstate(over="ignore"):
            relative = np.expm1(change)
            if self.relative_to == "smaller":
                relative = np.where(change < 0, -np.expm1(-change), relative)
        return {
            "probability_change": self._mean(relative, rows["edit"]),
            "log_probability_change": self._mean(change, rows["edit"]),
        }
