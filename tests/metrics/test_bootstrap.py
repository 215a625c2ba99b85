import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kn_sweeps.metrics import base, bootstrap
from kn_sweeps.metrics.bootstrap import Bootstrap, Estimate
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
    for weights in np.concatenate(list(Bootstrap(resamples=50, seed=seed).weights(len(names)))):
        drawn = [
            values[clusters == n]
            for n, w in zip(names, weights, strict=True)
            for _ in range(int(w))
        ]
        means.append(
            np.mean([c.mean() for c in drawn]) if per_cluster else np.concatenate(drawn).mean()
        )
    low, high = np.quantile(means, [0.025, 0.975])

    estimate = Bootstrap(resamples=50, seed=seed).mean(values, clusters, per_cluster=per_cluster)

    assert estimate.low == pytest.approx(low, abs=1e-9)
    assert estimate.high == pytest.approx(high, abs=1e-9)
    assert estimate.n == len(values)


@given(clustered, st.booleans(), st.randoms())
def test_the_order_of_the_rows_changes_nothing(data, per_cluster, random):
    shuffled = random.sample(data, len(data))
    one, other = (
        Bootstrap(resamples=100).mean(*zip(*order, strict=True), per_cluster=per_cluster)
        for order in (data, shuffled)
    )
    assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), abs=1e-9)


@given(st.floats(-1e6, 1e6), st.integers(2, 9), st.integers(1, 4), st.booleans())
def test_equal_values_give_an_interval_of_no_width(value, clusters, rows, per_cluster):
    names = np.repeat(np.arange(clusters), rows)
    estimate = Bootstrap().mean(np.full(len(names), value), names, per_cluster=per_cluster)
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((value,) * 3)


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(60), 5)
    covered = 0
    for seed in range(400):
        # Rows of an edit share most of their luck: an interval over rows would be far too narrow.
        values = 3 + generator.normal(size=60)[clusters] + 0.3 * generator.normal(size=300)
        estimate = Bootstrap(resamples=500, seed=seed).mean(values, clusters)
        covered += estimate.low <= 3 <= estimate.high
    assert 0.91 <= covered / 400 <= 0.98


def test_rows_that_ignore_their_cluster_would_be_overconfident():
    generator = np.random.default_rng(1)
    clusters = np.repeat(np.arange(40), 10)
    values = generator.normal(size=40)[clusters]
    by_edit = Bootstrap().mean(values, clusters)
    by_row = Bootstrap().mean(values, np.arange(400))
    assert by_edit.high - by_edit.low > 2 * (by_row.high - by_row.low)


def test_every_draw_takes_as_many_clusters_as_there_are_and_each_equally_often():
    weights = np.concatenate(list(Bootstrap(resamples=5000, seed=0).weights(7)))
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert weights.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.08)


def test_drawing_in_blocks_changes_no_draw(monkeypatch):
    whole = np.concatenate(list(Bootstrap(resamples=100, seed=0).weights(9)))
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 70)
    parts = list(Bootstrap(resamples=100, seed=0).weights(9))
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_macro_average_weighs_edits_and_the_mean_weighs_rows():
    values, clusters = [1, 1, 1, 0], ["a", "a", "a", "b"]
    assert Bootstrap().mean(values, clusters).value == 0.75
    assert Bootstrap().mean(values, clusters, per_cluster=True).value == 0.5


def test_what_is_not_finite_was_not_judged():
    estimate = Bootstrap().mean([1, math.nan, 0, math.inf], ["a", "a", "b", "c"])
    assert (estimate.value, estimate.n) == (0.5, 2)


def test_nothing_judged_has_no_value():
    assert Bootstrap().mean([math.nan], ["a"]) == Estimate(None, None, None, 0)
    assert Bootstrap().mean([], []) == Estimate(None, None, None, 0)


def test_one_edit_has_a_value_but_no_interval():
    assert Bootstrap().mean([1, 0], ["a", "a"]) == Estimate(0.5, None, None, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"confidence": 95}, "confidence must lie between 0 and 1, got 95"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_choices(arguments, message):
    with pytest.raises(ValueError, match=message):
        Bootstrap(**arguments)


def test_a_scorer_that_does_not_exist_is_refused_with_the_choices():
    with pytest.raises(
        ValueError,
        match="one of exact, argmax, token, margin, generated, contains, judged, got 'exakt'",
    ):
        Reliability(scorer="exakt")


def test_any_statistic_has_the_interval_of_its_own_resamples():
    each = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    sampler = Bootstrap(resamples=400, confidence=0.8)
    low, high = sampler.interval(lambda weights: weights @ each, 3)
    drawn = np.concatenate(list(sampler.weights(3))) @ each
    np.testing.assert_array_equal([low, high], np.quantile(drawn, [0.1, 0.9], axis=0))


def test_resamples_without_a_finite_value_are_left_out():
    low, high = Bootstrap(resamples=200).interval(lambda w: np.where(w[:, 0] > 0, 3.0, np.nan), 2)
    assert (low, high) == (3, 3)
    assert np.isnan(Bootstrap().interval(lambda w: np.full(len(w), np.inf), 2)).all()


def test_a_higher_confidence_is_a_wider_interval(row):
    rows = pd.DataFrame([row(f"e{i}", post_answer=["Rome", "Paris"][i % 2]) for i in range(20)])
    widths = []
    for confidence in (0.5, 0.99):
        estimate = Reliability(bootstrap=Bootstrap(confidence=confidence))(base.Results(rows))[
            "reliability"
        ]
        widths.append(estimate.high - estimate.low)
    assert widths[0] < widths[1]


def test_rounding_never_puts_the_interval_beside_equal_values():
    estimate = Bootstrap().mean(np.full(2000, 0.1), np.arange(2000))
    assert estimate.low <= estimate.value <= estimate.high
