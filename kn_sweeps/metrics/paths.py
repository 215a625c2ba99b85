"""By which paths the best neurons act on the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate, FloatArray
from kn_sweeps.metrics.quantities import CORRELATION, Quantity

NAME = "paths"
"""The measurement whose records are read."""
PATHS = ("direct", "mlps", "attention")
# Paths may work against each other: a part is no share between 0 and 1.
_PART = "part of the attribution"
_CASES = "measured cases"


@dataclass(frozen=True, kw_only=True)
class Paths(Metric):
    """What part of the best neurons' attributions goes which way; the parts add up to 1."""

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="paths_direct",
            meaning="what of the best neurons' attribution reaches the head directly",
            unit=_PART,
            counts=_CASES,
        ),
        Quantity(
            name="paths_mlps",
            meaning="what of the best neurons' attribution goes through later MLPs, and no "
            "attention",
            unit=_PART,
            counts=_CASES,
        ),
        Quantity(
            name="paths_attention",
            meaning="what of the best neurons' attribution goes through later attention",
            unit=_PART,
            counts=_CASES,
        ),
        Quantity(
            name="paths_correlation",
            meaning="Spearman's correlation of direct and whole attributions",
            unit=CORRELATION,
            counts=_CASES,
        ),
        Quantity(
            name="paths_overlap",
            meaning="how many of the best neurons are among the best by direct attribution",
            unit="share of neurons",
            counts=_CASES,
        ),
        Quantity(
            name="paths_uncertified",
            meaning="share of layers with an attribution, frozen or not, above the tolerance",
            unit="share of layers",
            counts="cases x layers",
            better="lower",
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Estimate over the measured cases."""
        records = results.measurements.get(NAME)
        if records is None or records.empty:
            return {}
        best = records[records["neurons"] == "best"]
        once = best.drop_duplicates("case")
        return {
            **{f"{NAME}_{path}": self._part(best, path) for path in PATHS},
            f"{NAME}_correlation": self._mean(once["correlation"], once["case"]),
            f"{NAME}_overlap": self._mean(once["overlap"], once["case"]),
            f"{NAME}_uncertified": self._mean(1.0 - best["certified"], best["case"]),
        }

    def _part(self, best: pd.DataFrame, path: str) -> Estimate:
        """A path's sum over all cases, as a part of the whole: small attributions say little."""
        sums = best.groupby("case")[[path, "whole"]].sum().sort_index()
        table = sums.to_numpy(np.float64)

        def statistic(weights: FloatArray) -> FloatArray:
            totals: FloatArray = weights @ table
            found: FloatArray = totals[:, 0] / np.where(totals[:, 1] > 0, totals[:, 1], np.nan)
            return found

        if not table[:, 1].sum() > 0:
            return Estimate(None, None, None, 0)
        return self.bootstrap.estimate(statistic, sums.index, len(sums))
