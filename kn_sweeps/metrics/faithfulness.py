"""Faithfulness of attributions: how much of the answer their best neurons carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate, FloatArray
from kn_sweeps.metrics.quantities import CORRELATION, Quantity

NAME = "faithfulness"
"""The measurement whose records are read."""
_SHARE = "share of the answer's probability"
_CASES = "measured cases"


def areas(ks: FloatArray, curves: FloatArray) -> FloatArray:
    """The mean height of each curve over log k, from 1 to all neurons; by the trapezoidal rule.

    Args:
        ks: Ascending, without 0.
        curves: A curve a row, one number for each k.
    """
    steps = np.diff(np.log(ks))
    middles = (curves[:, 1:] + curves[:, :-1]) / 2
    found: FloatArray = middles @ steps / steps.sum()
    return found


def heights(records: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By curve, the probabilities of one attribution's records: a case a row, a k a column."""
    return {
        str(curve): rows.pivot_table(index="case", columns="k", values="probability").sort_index()
        for curve, rows in records.groupby("curve")
    }


def shares(
    tables: dict[str, pd.DataFrame], curve: str, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """How much of the answer's probability is there at each k, of weighted cases.

    Args:
        tables: The `heights` of one attribution.
        curve: `suppressed`, as a share of the probability with no neuron at 0; or `kept`, as a
            share of what all neurons add to the probability with none.
        weights: How often each case is drawn, shape (resamples, cases), in the order of their ids.

    Returns:
        All k but 0, and the shares, (resamples, ks). NaN where there is nothing to have a share of.
    """
    table = tables[curve]
    totals: FloatArray = weights @ table.to_numpy(np.float64)
    clean = weights @ tables["suppressed"][0].to_numpy(np.float64)
    none = weights @ tables["kept"][0].to_numpy(np.float64) * (curve == "kept")
    whole = np.where(clean - none > 0, clean - none, np.nan)
    found: FloatArray = (totals[:, 1:] - none[:, None]) / whole[:, None]
    return table.columns.to_numpy(np.float64)[1:], found


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Metric):
    """For every attribution: areas under its curves, its agreement with the first, its cost."""

    quantities: ClassVar[tuple[Quantity, ...]] = (
        Quantity(
            name="faithfulness_kept_<attribution>",
            meaning="area under the answer's probability where all but the k best neurons of "
            "<attribution> are at 0 (CPR over log k)",
            unit=_SHARE,
            counts=_CASES,
            better="higher",
        ),
        Quantity(
            name="faithfulness_distance_<attribution>",
            meaning="how far that curve of <attribution> is from 1 (CMD over log k)",
            unit=_SHARE,
            counts=_CASES,
            better="lower",
        ),
        Quantity(
            name="faithfulness_suppressed_<attribution>",
            meaning="what is taken from the answer's probability where the k best neurons of "
            "<attribution> are at 0, over log k",
            unit=_SHARE,
            counts=_CASES,
            better="higher",
        ),
        Quantity(
            name="faithfulness_correlation_<attribution>",
            meaning="Spearman's correlation of the scores of <attribution> and of the first",
            unit=CORRELATION,
            counts=_CASES,
        ),
        Quantity(
            name="faithfulness_overlap_<attribution>",
            meaning="how many of the best neurons of <attribution> are among those of the first",
            unit="share of neurons",
            counts=_CASES,
        ),
        Quantity(
            name="faithfulness_passes_<attribution>",
            meaning="what <attribution> costs, forward and backward",
            unit="passes of the prompt",
            counts=_CASES,
            better="lower",
        ),
    )

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Estimate over the measured cases."""
        records = results.measurements.get(NAME)
        if records is None or records.empty:
            return {}
        estimates: dict[str, Estimate] = {}
        for kind, rows in records.groupby("attribution", sort=False):
            once = rows.drop_duplicates("case")
            tables = heights(rows)
            estimates |= {
                f"{NAME}_kept_{kind}": self._area(tables, "kept"),
                f"{NAME}_distance_{kind}": self._area(tables, "kept", distance=True),
                f"{NAME}_suppressed_{kind}": self._area(tables, "suppressed", distance=True),
                f"{NAME}_correlation_{kind}": self._mean(once["correlation"], once["case"]),
                f"{NAME}_overlap_{kind}": self._mean(once["overlap"], once["case"]),
                f"{NAME}_passes_{kind}": self._mean(
                    once["forward"] + once["backward"], once["case"]
                ),
            }
        return estimates

    def _area(
        self, tables: dict[str, pd.DataFrame], curve: str, *, distance: bool = False
    ) -> Estimate:
        """The area under a curve, or between it and 1."""

        def statistic(weights: FloatArray) -> FloatArray:
            ks, found = shares(tables, curve, weights)
            away = np.abs(1 - found) if curve == "kept" else 1 - found
            return areas(ks, away if distance else found)

        names = tables[curve].index
        if not np.isfinite(statistic(np.ones((1, len(names))))).all():
            return Estimate(None, None, None, 0)
        return self.bootstrap.estimate(statistic, names, len(names))
