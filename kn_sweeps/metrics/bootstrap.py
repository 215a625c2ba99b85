"""The one bootstrap: what is estimated, and how far it would vary over other edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

_DRAWS_AT_ONCE = 4_000_000
"""Cluster draws held in memory together: about 100 MB, whatever the number of edits."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: The estimate; None where nothing could be judged (`n` is 0).
        low: Lower end of the confidence interval; None where there is none: nothing judged, a
            single edit (which says nothing about the spread over edits), or a maximum.
        high: Upper end, likewise.
        n: Number of rows judged, also where the value averages edits; for some numbers another
            count, which `Quantity.counts` names.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Percentile intervals from resampling whole clusters with replacement.

    The probes of one edit stand or fall together, so it is edits that are drawn, not rows.

    Attributes:
        confidence: Coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
    """

    confidence: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse arguments that name no interval."""
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")
        if self.resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {self.resamples}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")

    def mean(
        self, values: ArrayLike, clusters: ArrayLike, *, per_cluster: bool = False
    ) -> Estimate:
        """Estimate a mean and its interval.

        It is sum_k w_k s_k / sum_k w_k c_k for cluster sums s and counts c; w is 1 for the
        estimate and a multinomial draw for a resample. `per_cluster` gives every cluster the same
        weight: s becomes its mean and c becomes 1. Pre and post stand in one row, so a difference
        is paired.

        Args:
            values: One number a row; one that is not finite was not judged and is left out.
            clusters: The cluster (edit id) of each row, in the same order.
            per_cluster: Average each cluster first (macro average).

        Returns:
            The mean, its interval and the number of values judged.
        """
        numbers = np.asarray(values, dtype=np.float64)
        judged = np.isfinite(numbers)
        if not judged.any():
            return Estimate(None, None, None, 0)
        # Measured from the lowest, equal values have an interval of no width, not one of rounding.
        origin = numbers[judged].min()
        heights = numbers[judged] - origin
        # Sorted codes: the order of the rows must not decide which draw meets which edit.
        codes, names = pd.factorize(np.asarray(clusters)[judged], sort=True)
        sums: FloatArray = np.bincount(codes, weights=heights).astype(np.float64)
        counts: FloatArray = np.bincount(codes).astype(np.float64)
        if per_cluster:
            sums, counts = sums / counts, np.ones_like(counts)
        both = np.stack([sums, counts], axis=1)

        def means(weights: FloatArray) -> FloatArray:
            totals: FloatArray = weights @ both
            with np.errstate(invalid="ignore"):
                found: FloatArray = origin + totals[:, 0] / totals[:, 1]
            return found

        return self.estimate(means, names, len(heights))

    def estimate(
        self, statistic: Callable[[FloatArray], FloatArray], names: ArrayLike, n: int
    ) -> Estimate:
        """A statistic of all clusters with its interval.

        Args:
            statistic: From weights, shape (resamples, clusters), its value under each, shape
                (resamples,); NaN where it has none.
            names: Of the clusters, in the order of the weights.
            n: How many values it judges.
        """
        clusters = len(np.asarray(names))
        value = float(statistic(np.ones((1, clusters)))[0])
        if clusters == 1:
            return Estimate(value, None, None, n)
        low, high = (
            float(e) if np.isfinite(e) else None for e in self.interval(statistic, clusters)
        )
        return Estimate(value, low, high, n)

    def interval(
        self, statistic: Callable[[FloatArray], FloatArray], clusters: int
    ) -> tuple[FloatArray, FloatArray]:
        """The interval of any statistic of weighted clusters.

        Args:
            statistic: From weights, shape (resamples, clusters), its value under each resample,
                shape (resamples, ...). A resample where it is not finite is left out.
            clusters: How many there are.

        Returns:
            Lower and upper end, of the shape of one value; NaN where no resample is left.
        """
        return self.ends(self.draws(statistic, clusters))

    def draws(self, statistic: Callable[[FloatArray], FloatArray], clusters: int) -> FloatArray:
        """A statistic of weighted clusters under every resample, shape (resamples, ...)."""
        return np.concatenate([statistic(weights) for weights in self.weights(clusters)])

    def ends(self, drawn: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Both ends of the interval that draws span; NaN where none of them is finite."""
        judged = drawn[np.isfinite(drawn).reshape(len(drawn), -1).all(axis=1)]
        if not len(judged):
            nothing = np.full(drawn.shape[1:], np.nan)
            return nothing, nothing
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(judged, [tail, 1 - tail], axis=0)
        return low, high

    def weights(self, clusters: int) -> Iterator[FloatArray]:
        """Yield blocks of multinomial weights: how often each resample drew each cluster.

        Args:
            clusters: Their number; each is drawn with equal probability, as often as there are
                clusters.

        Yields:
            Weights, shape (resamples of the block, clusters); every row sums to `clusters`.
        """
        generator = np.random.default_rng(self.seed)
        at_once = max(1, _DRAWS_AT_ONCE // clusters)
        for start in range(0, self.resamples, at_once):
            block = min(at_once, self.resamples - start)
            # Counting uniform draws gives the multinomial eight times faster than numpy's own.
            drawn = generator.integers(clusters, size=(block, clusters))
            drawn += np.arange(block)[:, None] * clusters
            counted = np.bincount(drawn.ravel(), minlength=block * clusters)
            yield counted.reshape(block, clusters).astype(np.float64)
