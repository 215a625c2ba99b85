"""Preference: what an edit does to the choice between the two forms of a minimal pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate
from kn_sweeps.metrics.quantities import NATS, SHARE, Quantity


@dataclass(frozen=True, kw_only=True)
class Preference(Metric):
    """`flip_rate` with `effect_size`, and `pair_accuracy` with `pair_accuracy_after`.

    A flip rate alone hides how far the rest moved, an effect size alone hides that nothing
    flipped; they come together or not at all.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="flip_rate",
            meaning="share of pairs whose preferred form changes; read with effect_size",
            unit=SHARE,
            counts="edit probes of pairs",
            headline=True,
        ),
        Quantity(
            name="effect_size",
            meaning="change of log P(good) - log P(bad); read with flip_rate",
            unit=NATS,
            counts="edit probes of pairs",
            headline=True,
        ),
        Quantity(
            name="pair_accuracy",
            meaning="share of pairs whose good sentence is the more probable, unedited model",
            unit=SHARE,
            counts="whole sentences",
            better="higher",
            headline=True,
        ),
        Quantity(
            name="pair_accuracy_after",
            meaning="share of pairs whose good sentence is the more probable, edited model",
            unit=SHARE,
            counts="whole sentences",
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the minimal pairs of a run: their critical word, and whole sentences."""
        return self._flips(results) | self._accuracy(results)

    def _flips(self, results: Results) -> dict[str, Estimate]:
        """How many preferences turned over, either way, and how far they all moved."""
        rows = results.of("edit")
        if not rows.empty:
            rows = rows[rows["task"] == "syntax"]
        if rows.empty:
            return {}
        pre, post = rows["pre_margin"], rows["post_margin"]
        return {
            "flip_rate": self._mean(np.sign(pre) != np.sign(post), rows["edit"]),
            # The margin is log P(bad) - log P(good), so its fall is the rise of good over bad.
            "effect_size": self._mean(pre - post, rows["edit"]),
        }

    def _accuracy(self, results: Results) -> dict[str, Estimate]:
        """How often the whole good sentence is more probable than the bad one."""
        rows = results.of("sentence")
        if rows.empty:
            return {}
        return {
            "pair_accuracy": self._mean(rows["pre_margin"] < 0, rows["edit"]),
            "pair_accuracy_after": self._mean(rows["post_margin"] < 0, rows["edit"]),
        }
