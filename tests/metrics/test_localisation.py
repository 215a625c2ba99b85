import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kn_sweeps.metrics.base import Results
from kn_sweeps.metrics.localisation import (
    Localisation,
    by_target_type,
    layer_histogram,
    mixed_r_squared,
    null_r_squared,
    r_squared,
)


def located(edit, neurons, tau=0.7, residual=1e-6, certified=True):
    certificate = {"residual": [0.0, residual], "certified": [True, certified]}
    return {"edit": edit, "neurons": neurons, "tau": tau, "certificates": [certificate]}


def some_scores(seed, prompts=6, neurons=40):
    return np.random.default_rng(seed).normal(size=(prompts, neurons))


@given(st.integers(2, 8), st.floats(1e-6, 1e6), st.integers(0, 9))
def test_rows_of_one_direction_have_r_squared_one(prompts, scale, seed):
    one = some_scores(seed, prompts=1)
    factors = np.linspace(1, scale, prompts)[:, None]
    assert r_squared(one * factors) == pytest.approx(1)
    assert r_squared(one * factors * np.resize([1, -1], prompts)[:, None]) == pytest.approx(1)


@given(st.integers(2, 8))
def test_orthogonal_rows_have_r_squared_zero(prompts):
    assert r_squared(np.eye(prompts, 20) * 7) == pytest.approx(0)


@given(st.integers(0, 20))
def test_r_squared_is_the_formula_of_the_singular_values(seed):
    scores = some_scores(seed)
    unit = scores / np.linalg.norm(scores, axis=1, keepdims=True)
    top = np.linalg.svd(unit, compute_uv=False)[0]
    assert r_squared(scores) == pytest.approx((top**2 - 1) / 5)
    assert 0 <= r_squared(scores.astype(np.float32)) <= 1


@given(st.integers(0, 20), st.permutations(range(6)))
def test_r_squared_ignores_the_order_and_the_scale_of_the_prompts(seed, order):
    scores = some_scores(seed)
    scales = np.arange(1, 7)[:, None]
    assert r_squared(scores[list(order)] * scales) == pytest.approx(r_squared(scores))


def test_scores_dealt_out_at_random_have_an_r_squared_near_zero():
    rng = np.random.default_rng(0)
    pattern = rng.exponential(size=4000) ** 3
    rows = np.stack([pattern * rng.uniform(0.9, 1.1, size=4000) for _ in range(8)])
    assert r_squared(rows) > 0.9
    null = null_r_squared(rows - rows.mean(), shuffles=10, seed=0)
    assert len(null) == 10
    assert null.max() < 0.05
    assert len(null_r_squared(rows[:1], shuffles=3, seed=0)) == 0


def test_prompts_of_all_sources_are_alike_where_neurons_are_active_whatever_is_asked():
    rng = np.random.default_rng(0)
    always = rng.exponential(size=500) ** 2
    own = {name: rng.exponential(size=500) ** 2 for name in "abcdef"}
    scores = {
        name: always + pattern + rng.normal(scale=0.3, size=(6, 500))
        for name, pattern in own.items()
    }
    mixed = mixed_r_squared(scores, draws=50, seed=0)
    for name, rows in scores.items():
        assert len(mixed[name]) == 50
        assert null_r_squared(rows, shuffles=2, seed=0).max() < mixed[name].min()
        assert mixed[name].max() < r_squared(rows)
    everything = np.concatenate(list(scores.values()))
    one = mixed_r_squared({"all": everything}, draws=3, seed=0)["all"]
    assert one == pytest.approx(r_squared(everything), abs=1e-5)
    assert len(mixed_r_squared({"a": rows[:1], "b": rows}, draws=3, seed=0)["a"]) == 0


def test_a_row_without_a_direction_is_left_out():
    scores = some_scores(0)
    with_holes = np.vstack([scores, np.zeros(40), np.full(40, np.nan)])
    assert r_squared(with_holes) == pytest.approx(r_squared(scores))


@pytest.mark.parametrize("scores", [np.zeros((0, 4)), np.ones((1, 4)), np.zeros((5, 4))])
def test_fewer_than_two_rows_have_no_r_squared(scores):
    assert r_squared(scores) is None


def test_r_squared_averages_the_sources_that_have_two_prompts():
    attributions = {"equal": np.ones((3, 8)), "orthogonal": np.eye(3, 8), "single": np.ones((1, 8))}
    estimate = Localisation()(Results(attributions=attributions))["r_squared"]
    assert (estimate.value, estimate.n) == (pytest.approx(0.5), 2)


def test_the_neuron_sets_are_summed_up():
    found = [
        located("a", [[0, 1], [2, 5]], tau=0.7, residual=1e-6),
        located("b", [[2, 3], [2, 4], [2, 5], [1, 0]], None, residual=3e-4, certified=False),
        located("c", [], tau=0.5, residual=math.nan),
    ]
    estimates = Localisation()(Results(located=found))
    assert (estimates["neurons"].value, estimates["neurons"].n) == (2, 3)
    assert (estimates["tau"].value, estimates["tau"].n) == (pytest.approx(0.6), 2)
    worst = estimates["completeness_residual"]
    assert (worst.value, worst.low, worst.high, worst.n) == (3e-4, None, None, 5)
    assert (estimates["uncertified"].value, estimates["uncertified"].n) == (pytest.approx(0.2), 5)
    assert "r_squared" not in estimates


def test_a_method_that_locates_nothing_has_no_such_numbers():
    assert Localisation()(Results()) == {}


def test_a_control_without_scores_still_counts_its_neurons():
    found = [{"edit": "a", "neurons": [[0, 1]], "tau": None, "certificates": []}]
    estimates = Localisation()(Results(located=found))
    assert estimates["neurons"].value == 1
    assert estimates["tau"].n == estimates["completeness_residual"].n == 0


def test_the_histogram_counts_every_neuron_in_its_layer():
    found = [located("a", [[0, 1], [2, 5]]), located("b", [[2, 5]]), located("c", [])]
    assert layer_histogram(found, 4).tolist() == [1, 0, 2, 0]
    assert layer_histogram([], 3).tolist() == [0, 0, 0]


def test_a_layer_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="layers 1 to 4, but layers run from 0 to 3"):
        layer_histogram([located("a", [[1, 0], [4, 0]])], 4)


def test_prompts_are_pooled_by_what_their_targets_express():
    """Two singular forms and one plural, of which the first and the last share a paradigm."""

    def entry(edit, source, case, prompts):
        certificates = [{"residual": [0.0], "certified": [True]}] * prompts
        return {
            "edit": edit,
            "source": source,
            "cases": [case],
            "certificates": certificates,
            "neurons": [[0, 1]],
            "tau": 0.7,
        }

    rows = pd.DataFrame(
        {
            "case": ["a/0", "a/1", "a/2", "b/0"],
            "old": ["this", "that", "those", "cats"],
            "new": ["these", "those", "that", "cat"],
            "subject": ["cat", "dog", "dogs", "these"],
            "kind": "edit",
            "after": "edit",
            "intent": "erase",
        }
    )
    scores = {"a": some_scores(0, prompts=6), "b": some_scores(1, prompts=2)}
    located = [
        entry("a/this", "a", "a/0", 2),
        entry("a/those", "a", "a/2", 3),
        entry("b/cats", "b", "b/0", 2),
        entry("a/that", "a", "a/1", 1),
    ]
    pools = by_target_type(Results(rows, located, scores))
    assert list(pools) == ["a, sg", "a, pl", "b, pl"]
    np.testing.assert_array_equal(pools["a, sg"], scores["a"][[0, 1, 5]])
    np.testing.assert_array_equal(pools["a, pl"], scores["a"][2:5])
    metric = Localisation(pooled_by="target_type")
    expected = np.mean([r_squared(pool) for pool in pools.values()])
    assert metric(Results(rows, located, scores))["r_squared"].value == pytest.approx(expected)
