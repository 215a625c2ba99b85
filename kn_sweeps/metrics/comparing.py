"""Numbers of several runs set against each other: two methods, several seeds, what n can show.

All of it is drawn from the numbers themselves: a metric is asked with a bootstrap that keeps, of
every number made of edits, how it follows from their weights (`Sampled`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import ArrayLike

from kn_sweeps.metrics.base import Metric, Results
from kn_sweeps.metrics.bootstrap import Bootstrap, Estimate, FloatArray
from kn_sweeps.metrics.significance import paired_test

POWER = 0.8
"""How often a difference is found that `detectable` says can be."""
_AT_ONCE = 4_000_000
"""Weights of single edits held in memory together."""


@dataclass(frozen=True)
class Sampled(Estimate):
    """An estimate, and how it follows from the weights of the edits it is made of.

    Attributes:
        statistic: From weights, shape (resamples, edits), the value under each.
        names: Ids of the edits (of cases, or of cases that go together), in the weights' order.
    """

    statistic: Callable[[FloatArray], FloatArray]
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Keeping(Bootstrap):
    """Keeps how an estimate is made, and draws nothing."""

    def estimate(
        self, statistic: Callable[[FloatArray], FloatArray], names: ArrayLike, n: int
    ) -> Estimate:
        of = tuple(map(str, np.asarray(names)))
        value = float(statistic(np.ones((1, len(of))))[0])
        return Sampled(value, None, None, n, statistic, of)


def sampled(metrics: Iterable[Metric], results: Results) -> dict[str, Sampled]:
    """Every number of some metrics that is made of edits or cases; others cannot be paired."""
    rows = results.rows
    known = {*rows["edit"], *rows["case"], *rows["together"]}
    return {
        name: one
        for metric in metrics
        for name, one in replace(metric, bootstrap=_Keeping())(results).items()
        if isinstance(one, Sampled) and known.issuperset(one.names)
    }


def on_cases(results: Results, cases: Iterable[str]) -> Results:
    """What was measured on some cases."""
    chosen = set(cases)
    return replace(
        results,
        rows=results.rows[results.rows["case"].isin(chosen)],
        measurements={
            name: records[records["case"].isin(chosen)]
            for name, records in results.measurements.items()
        },
    )


def edited(results: Results) -> set[str]:
    """The cases that could be edited."""
    rows = results.rows
    return {*rows["case"]} - {*rows["case"][rows["kind"] == "failed"]}


def blocks(*runs: Results) -> dict[str, int]:
    """What stands or falls together in any of some runs: by case and by edit, a number from 0.

    Cases that share an edit in one run are one block in all, so that every run's edits are
    whole in a block and blocks can be drawn.
    """
    above: dict[str, str] = {}

    def top(name: str) -> str:
        while (higher := above.setdefault(name, name)) != name:
            above[name] = above[higher]
            name = higher
        return name

    for run in runs:
        for case, *shared in set(run.rows[["case", "edit", "together"]].itertuples(index=False)):
            for name in filter(None, shared):
                # The smaller name on top: the order of the rows decides nothing.
                low, high = sorted((top(case), top(name)))
                above[high] = low
    number = {name: n for n, name in enumerate(sorted({top(name) for name in above}))}
    return {name: number[top(name)] for name in above}


@dataclass(frozen=True)
class Difference:
    """One method's number minus another's, on the same cases.

    Attributes:
        estimate: The difference with its paired interval; `n` counts blocks judged under both.
        p: Of a two-sided Wilcoxon signed-rank test of the blocks; 1 where there is no block.
        detectable: As the function `detectable`, of this pair.
    """

    estimate: Estimate
    p: float
    detectable: float | None


def difference(
    one: Sampled,
    other: Sampled,
    block_of: Mapping[str, int],
    bootstrap: Bootstrap,
    *,
    share: bool = False,
) -> Difference:
    """How far one number is from another; each draw takes the same blocks for both.

    Args:
        one: A number of the first run.
        other: The same of the second.
        block_of: As `blocks` gives it for both runs.
        bootstrap: How the interval is had.
        share: Whether it lies between 0 and 1.
    """
    size = max(block_of.values()) + 1
    sides = [(x.statistic, [block_of[name] for name in x.names]) for x in (one, other)]

    def of_both(weights: FloatArray) -> list[FloatArray]:
        return [statistic(weights[:, at]) for statistic, at in sides]

    def apart(weights: FloatArray) -> FloatArray:
        first, second = of_both(weights)
        return first - second

    alone = np.concatenate([np.stack(of_both(weights), 1) for weights in _single(size)])
    judged = alone[np.isfinite(alone).all(1)]
    estimate = bootstrap.estimate(apart, range(size), len(judged))
    return Difference(
        estimate,
        paired_test(*judged.T) if len(judged) else 1.0,
        _found(bootstrap.draws(apart, size), len(judged), bootstrap, share),
    )


def over_runs(parts: Sequence[Sampled], bootstrap: Bootstrap) -> Estimate:
    """The mean of runs that differ in their seed; its interval is over runs and their edits.

    A draw takes as many runs, with replacement, and of each run drawn as many of its edits.

    Args:
        parts: The number of each run.
        bootstrap: How the interval is had.

    Returns:
        The mean over runs; `n` counts what all of them judged.
    """
    value = fmean(one.value for one in parts if one.value is not None)
    n = sum(one.n for one in parts)
    drawn = np.stack(
        [
            replace(bootstrap, seed=bootstrap.seed + k).draws(one.statistic, len(one.names))
            for k, one in enumerate(parts)
        ]
    )
    if len(parts) == 1 and len(parts[0].names) == 1:
        return Estimate(value, None, None, n)
    generator = np.random.default_rng(bootstrap.seed)
    size = (bootstrap.resamples, len(parts))
    runs, places = generator.integers(len(parts), size=size), generator.integers(size[0], size=size)
    low, high = bootstrap.ends(drawn[runs, places].mean(1))
    return Estimate(value, float(low), float(high), n)


def detectable(one: Sampled, bootstrap: Bootstrap, *, share: bool = False) -> float | None:
    """How large a difference to another method on as many edits is found in 4 of 5 experiments.

    (z_(1 - alpha / 2) + z_0.8) sqrt(2) SE, with alpha = 1 - confidence: of two methods that vary
    alike and independently. On the same cases pairs say less or more: see `Difference`.

    SE is the standard deviation of the bootstrap's draws. Where all edits are judged alike that is
    0, which is no certainty: for a share it is at least that of two more judged one way and two
    the other (Agresti and Coull 1998); of another number nothing can be said, which is None.

    Args:
        one: A number.
        bootstrap: How it is drawn, and its confidence.
        share: Whether it lies between 0 and 1.
    """
    drawn = bootstrap.draws(one.statistic, len(one.names))
    return _found(math.sqrt(2) * drawn, len(one.names), bootstrap, share)


def _found(drawn: FloatArray, n: int, bootstrap: Bootstrap, share: bool) -> float | None:
    judged = drawn[np.isfinite(drawn)]
    spread = float(np.std(judged)) if len(judged) else 0.0
    if spread <= 1e-9 * float(np.abs(judged).max(initial=0.0)):  # rounding
        spread = 0.0
    if not (share or spread):
        return None
    normal = NormalDist()
    z = normal.inv_cdf(0.5 + bootstrap.confidence / 2) + normal.inv_cdf(POWER)
    few = 2 / (n + 4)
    least = math.sqrt(2 * few * (1 - few) / (n + 4)) if share else 0.0
    return z * max(spread, least)


def _single(size: int) -> Iterator[FloatArray]:
    """Weights that take one block each."""
    step = max(1, _AT_ONCE // size)
    for start in range(0, size, step):
        yield np.eye(min(step, size - start), size, start)
