"""Co-occurrence: do attribution and suppression follow how often text has two words together?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Estimate, FloatArray
from kn_sweeps.metrics.quantities import CORRELATION, Quantity

NAME = "cooccurrence"
"""The measurement whose records are read."""


def pairs(results: Results) -> pd.DataFrame:
    """A row a pair of words: `source`, `first`, `second`, `count`, and the means over its cases.

    `attribution` is what the edited neurons add to the answer's probability, `loss` how many nats
    the edit takes from it. `stratum` is the source with the word of the pair that has fewer
    different ones there (the determiner, the object), `cluster` the other word.
    """
    records = results.measurements[NAME]
    rows = results.of("edit").set_index("case")
    loss = rows["pre_log_prob_old"] - rows["post_log_prob_old"]
    records = records.assign(loss=records["case"].map(loss))
    words = ["source", "first", "second", "count"]
    table = records.groupby(words, as_index=False)[["attribution", "loss"]].mean()
    shared, other = sorted(("first", "second"), key=lambda word: table[word].nunique())
    return table.assign(stratum=table["source"] + " " + table[shared], cluster=table[other])


def rank_correlation(x: ArrayLike, y: ArrayLike, strata: ArrayLike) -> float:
    """Spearman's correlation within strata: ranks are taken and centred within each.

    A stratum in which one of the two does not vary says nothing and is left out.

    Returns:
        A number in [-1, 1]; NaN where nothing is left.
    """
    return float(rank_correlations(x, y, strata, np.ones((1, len(np.asarray(x)))))[0])


def rank_correlations(
    x: ArrayLike, y: ArrayLike, strata: ArrayLike, weights: FloatArray
) -> FloatArray:
    """`rank_correlation` of resamples that have each row as often as its weight says.

    Args:
        x: One number a row.
        y: Another.
        strata: The stratum of each row.
        weights: How often each is drawn, shape (resamples, rows).

    Returns:
        One number a resample.
    """
    values = np.asarray(x, float), np.asarray(y, float)
    xx, xy, yy = np.zeros((3, len(weights)))
    for at in members(strata):
        drawn = weights[:, at]
        (a, some), (b, others) = (_weighted_ranks(one[at], drawn) for one in values)
        counted = drawn * (some & others)[:, None]
        xx += (counted * a * a).sum(1)
        xy += (counted * a * b).sum(1)
        yy += (counted * b * b).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: FloatArray = np.where(xx * yy > 0, xy / np.sqrt(xx * yy), np.nan)
    return found


def _weighted_ranks(
    values: FloatArray, weights: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Centred ranks, as shares, of values that are there more than once; and whether they vary."""
    different, tie = np.unique(values, return_inverse=True)
    drawn = weights @ np.eye(len(different))[tie]
    total = drawn.sum(1, keepdims=True)
    ranks = drawn.cumsum(1) - drawn + (drawn + 1) / 2
    centred = (ranks - (total + 1) / 2) / np.maximum(total, 1)
    return centred[:, tie], (drawn > 0).sum(1) > 1


def permutation_p(
    x: ArrayLike, y: ArrayLike, strata: ArrayLike, *, permutations: int, seed: int
) -> float:
    """Two-sided p-value of `rank_correlation` under shuffling within strata."""
    groups = telling(x, y, strata)
    a, b = _ranks(np.asarray(x, float), groups), _ranks(np.asarray(y, float), groups)
    generator = np.random.default_rng(seed)
    observed, extreme = abs(float(a @ b)), 0
    for _ in range(permutations):
        shuffled = b.copy()
        for at in groups:
            shuffled[at] = b[generator.permutation(at)]
        # Rounding must not make an equal arrangement look less extreme.
        extreme += abs(float(a @ shuffled)) >= observed - 1e-12
    return (1 + extreme) / (1 + permutations)


_ATTRIBUTION = Quantity(
    name="cooccurrence_attribution",
    meaning="rank correlation of co-occurrence and attribution",
    unit=CORRELATION,
    counts="pairs of words",
)
_LOSS = Quantity(
    name="cooccurrence_loss",
    meaning="rank correlation of co-occurrence and the nats the edit takes",
    unit=CORRELATION,
    counts="pairs of words",
)


@dataclass(frozen=True, kw_only=True)
class CoOccurrence(Metric):
    """`cooccurrence_attribution` and `cooccurrence_loss`, each with its `_p`.

    Attributes:
        permutations: Shuffles behind the p-values.
    """

    quantities: ClassVar[tuple[Quantity, ...]] = (
        _ATTRIBUTION,
        _ATTRIBUTION.under("p", "its p-value, by permutation", unit="p-value"),
        _LOSS,
        _LOSS.under("p", "its p-value, by permutation", unit="p-value"),
    )

    permutations: int = 2000

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Correlate counts with attribution and with what the edit takes, within each stratum."""
        if NAME not in results.measurements or results.measurements[NAME].empty:
            return {}
        table = pairs(results)
        estimates: dict[str, Estimate] = {}
        for what in ("attribution", "loss"):
            judged = table[np.isfinite(table[what])]
            name = f"cooccurrence_{what}"
            estimates[name], estimates[f"{name}_p"] = self._correlated(judged, what)
        return estimates

    def _correlated(self, table: pd.DataFrame, what: str) -> tuple[Estimate, Estimate]:
        x, y, strata = (table[name].to_numpy() for name in ("count", what, "stratum"))
        n = sum(map(len, telling(x, y, strata)))
        if n == 0:
            return Estimate(None, None, None, 0), Estimate(None, None, None, 0)
        codes, names = pd.factorize(table["cluster"])

        def correlations(weights: FloatArray) -> FloatArray:
            return rank_correlations(x, y, strata, weights[:, codes])

        seed = self.bootstrap.seed
        p = permutation_p(x, y, strata, permutations=self.permutations, seed=seed)
        return self.bootstrap.estimate(correlations, names, n), Estimate(p, None, None, n)


def members(groups: ArrayLike) -> list[NDArray[np.intp]]:
    """Where the members of each group are."""
    codes, names = pd.factorize(np.asarray(groups))
    return [np.flatnonzero(codes == n) for n in range(len(names))]


def telling(x: ArrayLike, y: ArrayLike, strata: ArrayLike) -> list[NDArray[np.intp]]:
    """Where the members of each stratum are, of those in which both vary."""
    values = np.asarray(x, float), np.asarray(y, float)
    return [at for at in members(strata) if all(np.ptp(one[at]) > 0 for one in values)]


def _ranks(values: FloatArray, groups: list[NDArray[np.intp]]) -> FloatArray:
    ranks = np.zeros(len(values))
    for at in groups:
        ranks[at] = _weighted_ranks(values[at], np.ones((1, len(at))))[0][0]
    return ranks
