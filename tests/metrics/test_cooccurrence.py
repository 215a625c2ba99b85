"""Rank correlation within strata, and its permutation test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.bootstrap import Bootstrap
from kn_sweeps.metrics.cooccurrence import (
    CoOccurrence,
    permutation_p,
    rank_correlation,
    rank_correlations,
    telling,
)

Row = Callable[..., dict[str, Any]]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30))
def test_in_one_stratum_it_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs).T
    found = rank_correlation(x, y, ["a"] * len(pairs))
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_what_differs_between_strata_only_does_not_count() -> None:
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], 200)
    x, y = (rng.normal(size=400) + 10 * strata for _ in range(2))
    assert rank_correlation(x, y, [0] * 400) > 0.7
    assert abs(rank_correlation(x, y, strata)) < 0.15


def test_a_stratum_in_which_nothing_varies_says_nothing() -> None:
    x, y = [1, 2, 3, 0, 0, 0], [4, 5, 6, 9, 1, 5]
    strata = ["seen"] * 3 + ["never"] * 3
    assert rank_correlation(x, y, strata) == pytest.approx(1)
    assert sum(map(len, telling(x, y, strata))) == 3
    assert np.isnan(rank_correlation(x[3:], y[3:], strata[3:]))


def test_how_frequent_a_determiner_is_does_not_count(row: Row) -> None:
    rng = np.random.default_rng(0)
    rejected = 0
    for n in range(40):
        pairs = [(word, noun) for word in ("this", "that") for noun in range(12)]
        records = [
            {"case": f"{n}", "source": "singular", "first": word, "second": f"noun{noun}"}
            | {"count": 10 * (word == "this") + rng.integers(5), "probability": 0.5}
            | {"attribution": 5.0 * (word == "this") + rng.normal()}
            for n, (word, noun) in enumerate(pairs)
        ]
        rows = [row(case=f"{n}") for n in range(len(pairs))]
        results = Results(pd.DataFrame(rows), measurements={"cooccurrence": pd.DataFrame(records)})
        found = CoOccurrence(permutations=99, bootstrap=Bootstrap(resamples=20))(results)
        rejected += (found["cooccurrence_attribution_p"].value or 1) < 0.05
    assert rejected <= 6


def test_p_is_small_for_a_relation_and_uniform_without_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    assert permutation_p(x, x, [0] * 40, permutations=200, seed=0) == pytest.approx(1 / 201)
    found = [
        permutation_p(rng.normal(size=15), rng.normal(size=15), [0] * 15, permutations=99, seed=s)
        for s in range(200)
    ]
    assert 0.4 < np.mean(found) < 0.6
    assert np.mean(np.array(found) < 0.1) < 0.2


def test_pairs_are_averaged_over_their_cases(row: Row) -> None:
    counts = {"a": 0, "b": 3, "c": 9, "d": 9}
    records, rows = [], []
    for n, (noun, count) in enumerate(list(counts.items()) * 2):
        records.append(
            {"case": f"c{n}", "source": "singular", "first": "this", "second": noun}
            | {"count": count, "attribution": float(count), "probability": 0.5}
        )
        rows.append(row(case=f"c{n}", pre_log_prob_old=0.0, post_log_prob_old=-float(count)))
    results = Results(pd.DataFrame(rows), measurements={"cooccurrence": pd.DataFrame(records)})
    found = CoOccurrence(permutations=50, bootstrap=Bootstrap(resamples=50))(results)
    for what in ("attribution", "loss"):
        assert (found[f"cooccurrence_{what}"].value, found[f"cooccurrence_{what}"].n) == (1.0, 4)
    assert 0 < float(found["cooccurrence_loss_p"].value or 0) <= 1


def test_a_run_that_did_not_measure_it_has_no_such_numbers(row: Row) -> None:
    assert CoOccurrence()(Results(pd.DataFrame([row()]))) == {}


def test_a_weight_is_a_row_as_often():
    draw = np.random.default_rng(5)
    x, y = draw.integers(0, 6, (2, 40)).astype(float)
    strata = draw.integers(0, 4, 40)
    weights = draw.integers(0, 3, (20, 40)).astype(float)
    found = rank_correlations(x, y, strata, weights)
    for weight, one in zip(weights, found, strict=True):
        rows = np.repeat(np.arange(40), weight.astype(int))
        assert one == pytest.approx(rank_correlation(x[rows], y[rows], strata[rows]), nan_ok=True)
