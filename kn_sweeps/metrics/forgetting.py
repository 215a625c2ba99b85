"""Forgetting: what is left of edits once others were made on top of them."""

from __future__ import annotations

from dataclasses import dataclass

from kn_sweeps.metrics.answers import ScoredMetric, succeeded
from kn_sweeps.metrics.base import Estimate, Results
from kn_sweeps.metrics.generality import Generality
from kn_sweeps.metrics.locality import Locality
from kn_sweeps.metrics.reliability import Reliability

_HEADLINES = ("reliability", "generality", "locality")


@dataclass(frozen=True, kw_only=True)
class Forgetting(ScoredMetric):
    """`forgetting`, the success lost on edit probes, and each headline once all edits are made.

    Only a run with `regime=sequential` has them.
    """

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score the end of a sequence, and compare it with the time right after each edit."""
        last = results.after_all()
        edits = last.of("edit")
        if edits.empty:
            return {}
        key = ["case", "probe"]
        first = results.of("edit").set_index(key).loc[list(map(tuple, edits[key].to_numpy()))]
        lost = succeeded(first.reset_index(), results.intent, self.scorer) - succeeded(
            edits, results.intent, self.scorer
        )
        options = {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed}
        scored = {
            **Reliability(scorer=self.scorer, **options)(last),  # type: ignore[arg-type]
            **Generality(scorer=self.scorer, **options)(last),  # type: ignore[arg-type]
            **Locality(**options)(last),  # type: ignore[arg-type]
        }
        after_all = {f"{name}_after_all": scored[name] for name in _HEADLINES if name in scored}
        return {"forgetting": self._mean(lost, edits["edit"]), **after_all}
