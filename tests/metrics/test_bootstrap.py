import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kn_sweeps.metrics import base
from kn_sweeps.metrics.base import Estimate, cluster_bootstrap, draw_weights
from kn_sweeps.metrics.reliability import Reliability

clustered = st.lists(
    st.tuples(st.floats(-100, 100), st.sampled_from("abcdef")), min_size=1, max_size=40
)


@given(clustered, st.booleans(), st.integers(0, 5))
def test_the_vectorised_bootstrap_equals_a_loop_over_the_same_weights(data, per_cluster, seed):
    values = np.array([value for value, _ in data])
    clusters = np.array([cluster for _, cluster in data])
    names = sorted(set(clusters))
    if len(names) < 2:
        return
    means = []
    for weights in np.concatenate(list(draw_weights(len(names), 50, np.random.default_rng(seed)))):
        drawn = [
            values[clusters == n]
            for n, w in zip(names, weights, strict=True)
            for _ in range(int(w))
        ]
        means.append(
            np.mean([c.mean() for c in drawn]) if per_cluster else np.concatenate(drawn).mean()
        )
    low, high = np.quantile(means, [0.025, 0.975])

    estimate = cluster_bootstrap(values, clusters, per_cluster=per_cluster, resamples=50, seed=seed)

    assert estimate.low == pytest.approx(low, abs=1e-9)
    assert estimate.high == pytest.approx(high, abs=1e-9)
    assert estimate.n == len(values)


@given(clustered, st.booleans(), st.randoms())
def test_the_order_of_the_rows_changes_nothing(data, per_cluster, random):
    shuffled = random.sample(data, len(data))
    one, other = (
        cluster_bootstrap(*zip(*order, strict=True), per_cluster=per_cluster, resamples=100)
        for order in (data, shuffled)
    )
    assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-9)


@given(st.floats(-1e6, 1e6), st.integers(2, 9), st.integers(1, 4), st.booleans())
def test_equal_values_give_an_interval_of_no_width(value, clusters, rows, per_cluster):
    names = np.repeat(np.arange(clusters), rows)
    estimate = cluster_bootstrap(np.full(len(names), value), names, per_cluster=per_cluster)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value,) * 3)


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(60), 5)
    covered = 0
    for seed in range(400):
        # Rows of an edit share most of their luck: an interval over rows would be far too narrow.
        values = 3 + generator.normal(size=60)[clusters] + 0.3 * generator.normal(size=300)
        estimate = cluster_bootstrap(values, clusters, resamples=500, seed=seed)
        covered += estimate.low <= 3 <= estimate.high
    assert 0.91 <= covered / 400 <= 0.98


def test_rows_that_ignore_their_cluster_would_be_overconfident():
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 10)
    values = generator.normal(size=40)[clusters]
    by_edit = cluster_bootstrap(values, clusters)
    by_row = cluster_bootstrap(values, np.arange(400))
    assert by_edit.high - by_edit.low > 2 * (by_row.high - by_row.low)


def test_every_draw_takes_as_many_clusters_as_there_are_and_each_equally_often():
    weights = np.concatenate(list(draw_weights(7, 5000, np.random.default_rng(0))))
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert weights.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.08)


def test_drawing_in_blocks_changes_no_draw(monkeypatch):
    whole = np.concatenate(list(draw_weights(9, 100, np.random.default_rng(0))))
    monkeypatch.setattr(base, "_DRAWS_AT_ONCE", 70)
    parts = list(draw_weights(9, 100, np.random.default_rng(0)))
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_macro_average_weighs_edits_and_the_mean_weighs_rows():
    values, clusters = [1, 1, 1, 0], ["a", "a", "a", "b"]
    assert cluster_bootstrap(values, clusters).value == 0.75
    assert cluster_bootstrap(values, clusters, per_cluster=True).value == 0.5


def test_what_is_not_finite_was_not_judged():
    estimate = cluster_bootstrap([1, math.nan, 0, math.inf], ["a", "a", "b", "c"])
    assert (estimate.value, estimate.n) == (0.5, 2)


def test_nothing_judged_has_no_value():
    assert cluster_bootstrap([math.nan], ["a"]) == Estimate(None, None, None, 0)
    assert cluster_bootstrap([], []) == Estimate(None, None, None, 0)


def test_one_edit_has_a_value_but_no_interval():
    assert cluster_bootstrap([1, 0], ["a", "a"]) == Estimate(0.5, None, None, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"scorer": "exakt"}, "one of exact, argmax, token, margin, got 'exakt'"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        Reliability(**arguments)


def test_a_higher_confidence_is_a_wider_interval(row):
    rows = pd.DataFrame([row(f"e{i}", post_answer=["Rome", "Paris"][i % 2]) for i in range(20)])
    widths = []
    for confidence in (0.5, 0.99):
        estimate = Reliability(confidence=confidence)(base.Results(rows))["reliability"]
        widths.append(estimate.high - estimate.low)
    assert widths[0] < widths[1]


def test_rounding_never_puts_the_interval_beside_equal_values():
    estimate = cluster_bootstrap(np.full(2000, 0.1), np.arange(2000))
    assert estimate.low <= estimate.value <= estimate.high
