"""Preference: what an edit does to the choice between the two forms of a minimal pair."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kn_sweeps.metrics.base import Estimate, Metric, Results


@dataclass(frozen=True, kw_only=True)
class Preference(Metric):
    """`flip_rate` with `effect_size`, and `pair_accuracy` with `pair_accuracy_after`.

    A flip rate alone hides how far the rest moved, an effect size alone hides that nothing
    flipped; they come together or not at all.
    """

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
