"""What every metric shares: the results it reads, the estimate it returns and its interval."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from kn_sweeps.cases import Intent, ProbeKind

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
        n: Number of rows judged, also where the value averages edits; for localisation, the
            number of edits or sources. docs/metrics.md says which.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, eq=False)
class Results:
    """What one run measured.

    Attributes:
        rows: One row a probe under an edit, all of one intent.
        located: One mapping for each edit that located neurons: its `edit`, `neurons` as
            (layer, index) pairs, the threshold `tau` and the `certificates` of its prompts.
        attributions: For each source, the scores of its prompts, (prompts, layers * neurons).
        measurements: What was measured beside the rows, by name; every record has its `case`.
    """

    rows: pd.DataFrame
    located: Sequence[Mapping[str, Any]] = ()
    attributions: Mapping[str, NDArray[np.floating[Any]]] = field(default_factory=dict)
    measurements: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse rows of two intents, whose success means different things."""
        if self.rows.empty:
            return
        intents = sorted(self.rows["intent"].unique())
        if len(intents) > 1:
            raise ValueError(
                f"the rows of one run must share one intent, got {', '.join(intents)}: "
                "score each intent on its own, they are never averaged together"
            )

    @property
    def intent(self) -> Intent:
        """What the edits of this run were for."""
        intent: Intent = self.rows["intent"].iloc[0]
        return intent

    def after_all(self) -> Results:
        """The same run as it was once all edits of a sequence were made."""
        if self.rows.empty:
            return self
        rows = self.rows[self.rows["after"] == "all"]
        return Results(rows.assign(after="edit"))

    def of(self, kind: ProbeKind, group: str | None = None) -> pd.DataFrame:
        """The rows of one kind of probe and, where given, of one of its groups.

        They were asked right after their own edit.
        """
        if self.rows.empty:
            return self.rows
        chosen = (self.rows["kind"] == kind) & (self.rows["after"] == "edit")
        if group is not None:
            chosen &= self.rows["group"] == group
        return self.rows[chosen]


@dataclass(frozen=True, kw_only=True)
class Metric(ABC):
    """A family of numbers read off one run's results.

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

    @abstractmethod
    def __call__(self, results: Results) -> dict[str, Estimate]:
        """Score a run; a name whose kind of probe the run does not have is absent."""

    def _mean(
        self, values: ArrayLike, clusters: ArrayLike, *, per_cluster: bool = False
    ) -> Estimate:
        """`cluster_bootstrap` with this metric's own arguments."""
        return cluster_bootstrap(
            values,
            clusters,
            per_cluster=per_cluster,
            confidence=self.confidence,
            resamples=self.resamples,
            seed=self.seed,
        )


def measured(metrics: Iterable[Metric], results: Results) -> dict[str, dict[str, Any]]:
    """Every estimate of some metrics, as a summary has them."""
    return {
        name: asdict(estimate) for metric in metrics for name, estimate in metric(results).items()
    }


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    per_cluster: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate a mean and its percentile interval, resampling whole clusters with replacement.

    The probes of one edit stand or fall together, so it is edits that are drawn, not rows. The
    mean is sum_k w_k s_k / sum_k w_k c_k for cluster sums s and counts c; w is 1 for the estimate
    and a multinomial draw for a resample. `per_cluster` gives every cluster the same weight: s
    becomes its mean and c becomes 1. Pre and post stand in one row, so a difference is paired.

    Args:
        values: One number a row; one that is not finite was not judged and is left out.
        clusters: The cluster (edit id) of each row, in the same order.
        per_cluster: Average each cluster first (macro average).
        confidence: Coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

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
    value = float(origin + sums.sum() / counts.sum())
    if len(names) == 1:
        return Estimate(value, None, None, len(heights))
    tail = (1 - confidence) / 2
    means = resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    low, high = origin + np.quantile(means, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), len(heights))


def resampled_means(
    sums: FloatArray, counts: FloatArray, resamples: int, generator: np.random.Generator
) -> FloatArray:
    """Ratio-of-sums mean of each bootstrap resample of the clusters, shape (resamples,)."""
    per_cluster = np.stack([sums, counts], axis=1)
    drawn = [w @ per_cluster for w in draw_weights(len(sums), resamples, generator)]
    totals = np.concatenate(drawn)
    means: FloatArray = totals[:, 0] / totals[:, 1]
    return means


def draw_weights(
    clusters: int, resamples: int, generator: np.random.Generator
) -> Iterator[FloatArray]:
    """Yield blocks of multinomial weights: how often each resample drew each cluster.

    Args:
        clusters: Number of clusters, each drawn with equal probability, as many times as there are.
        resamples: Number of resamples over all blocks.
        generator: Source of the draws.

    Yields:
        Weights, shape (resamples of the block, clusters); every row sums to `clusters`.
    """
    at_once = max(1, _DRAWS_AT_ONCE // clusters)
    for start in range(0, resamples, at_once):
        block = min(at_once, resamples - start)
        # Counting uniform draws gives the multinomial eight times faster than numpy's own sampler.
        drawn = generator.integers(clusters, size=(block, clusters))
        drawn += np.arange(block)[:, None] * clusters
        counted = np.bincount(drawn.ravel(), minlength=block * clusters)
        yield counted.reshape(block, clusters).astype(np.float64)
