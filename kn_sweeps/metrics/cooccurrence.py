"""Co-occurrence: do attribution and suppression follow how often text has two words together?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from kn_sweeps.metrics.base import Estimate, FloatArray, Metric, Results

NAME = "cooccurrence"
"""The measurement whose records are read."""


def pairs(results: Results) -> pd.DataFrame:
    """A row a pair of words: `source`, `first`, `second`, `count`, and the means over its cases.

    `attribution` is what the edited neurons add to the answer's probability, `loss` how many nats
    the edit takes from it.
    """
    records = results.measurements[NAME]
    rows = results.of("edit").set_index("case")
    loss = rows["pre_log_prob_old"] - rows["post_log_prob_old"]
    records = records.assign(loss=records["case"].map(loss))
    words = ["source", "first", "second", "count"]
    return records.groupby(words, as_index=False)[["attribution", "loss"]].mean()


def rank_correlation(x: ArrayLike, y: ArrayLike, strata: ArrayLike) -> float:
    """Spearman's correlation within strata: ranks are taken and centred within each.

    Returns:
        A number in [-1, 1]; NaN where the ranks of one do not vary within any stratum.
    """
    groups = _members(strata)
    a, b = _ranks(np.asarray(x, float), groups), _ranks(np.asarray(y, float), groups)
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / spread if spread > 0 else float("nan")


def permutation_p(
    x: ArrayLike, y: ArrayLike, strata: ArrayLike, *, permutations: int, seed: int
) -> float:
    """Two-sided p-value of `rank_correlation` under shuffling within strata."""
    groups = _members(strata)
    a, b = _ranks(np.asarray(x, float), groups), _ranks(np.asarray(y, float), groups)
    generator = np.random.default_rng(seed)
    observed, extreme = abs(float(a @ b)), 0
    for _ in range(permutations):
        shuffled = b.copy()
        for members in groups:
            shuffled[members] = b[generator.permutation(members)]
        # Rounding must not make an equal arrangement look less extreme.
        extreme += abs(float(a @ shuffled)) >= observed - 1e-12
    return (1 + extreme) / (1 + permutations)


@dataclass(frozen=True, kw_only=True)
class CoOccurrence(Metric):
    """`cooccurrence_attribution` and `cooccurrence_loss`, each with its `_p`.

    Attributes:
        permutations: Shuffles behind the p-values.
    """

    permutations: int = 2000

    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Correlate counts with attribution and with what the edit takes, within each source."""
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
        n = len(table)
        columns = [table[name].to_numpy() for name in ("count", what, "source")]
        value = rank_correlation(*columns) if n else float("nan")
        if not np.isfinite(value):
            return Estimate(None, None, None, n), Estimate(None, None, None, n)
        generator = np.random.default_rng(self.seed)
        drawn = (generator.integers(n, size=n) for _ in range(self.resamples))
        found = [rank_correlation(*(column[at] for column in columns)) for at in drawn]
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(found, [tail, 1 - tail])
        p = permutation_p(*columns, permutations=self.permutations, seed=self.seed)
        return Estimate(value, float(low), float(high), n), Estimate(p, None, None, n)


def _members(strata: ArrayLike) -> list[NDArray[np.intp]]:
    codes, names = pd.factorize(np.asarray(strata))
    return [np.flatnonzero(codes == n) for n in range(len(names))]


def _ranks(values: FloatArray, groups: list[NDArray[np.intp]]) -> FloatArray:
    ranks = np.zeros(len(values))
    for members in groups:
        ranked = rankdata(values[members])
        ranks[members] = (ranked - ranked.mean()) / len(members)
    return ranks
