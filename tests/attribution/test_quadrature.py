"""Integrals are right, know how right they are, and say so when they are not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from kn_sweeps.attribution.quadrature import PathIntegral, Quadrature, Rule
from kn_sweeps.attribution.rules import gauss_legendre, patterson

Curve = Callable[[float], list[float]]


def _taken(quadrature: Quadrature, curve: Curve, *, sharpness: float = 1.0) -> PathIntegral:
    """Integrate the derivative of a measure, given the antiderivatives of the scores."""
    path = quadrature.integral(1e-14, sharpness)
    step = 1e-6
    while wanted := path.wanted():
        for x in wanted:
            rise = np.array(curve(x + step)) - np.array(curve(x - step))
            path.know(x, sum(curve(x)), rise / (2 * step))
    return path


def _smooth(x: float) -> list[float]:
    return [math.sin(3 * x), math.exp(x), -math.exp(x) / 2]


def _sharp(x: float) -> list[float]:
    return [math.atan((x - 0.3) / 0.01), x, math.tanh(40 * (x - 0.05))]


def _behind_a_norm(x: float) -> list[float]:
    along = x / math.hypot(x, 1e-3)
    return [math.sin(2 * along), math.asinh(1e3 * x) / 10, -math.exp(along)]


@pytest.mark.parametrize(("nodes", "degree"), [(2, 1), (3, 3), (5, 7), (9, 13), (17, 25)])
def test_the_panels_rules_are_nested_positive_and_of_their_degree(nodes: int, degree: int) -> None:
    points, weights = patterson(nodes)
    for power in range(degree + 1):
        assert weights @ np.array(points) ** power == pytest.approx(1 / (power + 1))
    assert weights.min() > 0
    if nodes < 17:
        assert patterson(2 * nodes - 1)[0][::2] == points  # bit for bit: points are keys


@pytest.mark.parametrize("nodes", [1, 4, 9])
def test_gauss_legendre_is_exact_for_polynomials(nodes: int) -> None:
    points, weights = gauss_legendre(nodes)
    for degree in range(2 * nodes):
        value = sum(w * x**degree for x, w in zip(points, weights, strict=True))
        assert value == pytest.approx(1 / (degree + 1))


@pytest.mark.parametrize("curve", [_smooth, _sharp, _behind_a_norm])
@pytest.mark.parametrize("sharpness", [1.0, 30.0, 1e3, math.inf])
def test_a_certified_integral_is_within_the_tolerance(curve: Curve, sharpness: float) -> None:
    path = _taken(Quadrature(tol=1e-4), curve, sharpness=sharpness)
    exact = np.array(curve(1.0)) - np.array(curve(0.0))
    assert path.certified
    assert np.linalg.norm(path.scores - exact) <= 1e-4 * np.linalg.norm(exact)
    assert path.residual <= 1e-4 * abs(exact.sum())


def test_behind_a_norm_knowing_how_sharp_it_is_saves_most_nodes() -> None:
    assert _taken(Quadrature(), _behind_a_norm, sharpness=1e3).nodes <= 17
    assert _taken(Quadrature(), _behind_a_norm).nodes >= 40


def test_sharp_places_get_the_nodes() -> None:
    assert _taken(Quadrature(), _smooth).nodes <= 9
    sharp = _taken(Quadrature(), _sharp)
    fixed = _taken(Quadrature("gauss_legendre", sharp.nodes), _sharp)
    assert sharp.certified
    assert fixed.residual > 10 * sharp.residual


def test_errors_that_cancel_in_the_sum_are_seen() -> None:
    def curve(x: float) -> list[float]:
        bump = math.atan((x - 0.6) / 0.02)
        return [bump + x, -bump]

    path = Quadrature(tol=1e-3, max_nodes=9).integral(1e-14)
    while wanted := path.wanted():
        for x in wanted:
            slope = 0.02 / ((x - 0.6) ** 2 + 0.02**2)
            path.know(x, sum(curve(x)), np.array([slope + 1, -slope]))
    assert path.complete
    assert path.error > 1e-2
    assert not path.certified


def test_at_most_so_many_nodes_are_taken_and_the_result_says_it_is_not_enough() -> None:
    path = _taken(Quadrature(max_nodes=20), _sharp)
    assert path.nodes <= 20
    assert not path.certified


def test_rounding_does_not_cost_nodes_without_end() -> None:
    noise = np.random.default_rng(0)
    path = Quadrature(tol=1e-9).integral(1e-6)
    while wanted := path.wanted():
        for x in wanted:
            path.know(x, x + 1e-7 * noise.normal(), np.array([1 + 1e-7 * noise.normal()]))
    assert path.nodes <= 33
    assert not path.certified


def test_an_integrand_of_zeros_is_certified() -> None:
    path = Quadrature().integral(1e-14)
    while wanted := path.wanted():
        for x in wanted:
            path.know(x, 0.5, np.zeros(3))
    assert path.certified
    assert path.nodes == 5


def test_fixed_rules_are_the_sums_they_say_and_are_never_certified() -> None:
    riemann = _taken(Quadrature("riemann", 4), _smooth)
    expected = np.mean([3 * math.cos(3 * k / 4) for k in (1, 2, 3, 4)])
    assert riemann.scores[0] == pytest.approx(expected, rel=1e-6)
    assert riemann.nodes == 4
    gauss = _taken(Quadrature("gauss_legendre", 12), _smooth)
    assert gauss.complete
    assert math.isnan(gauss.error)
    assert not gauss.certified


@pytest.mark.parametrize(
    ("rule", "expected"), [("riemann", 0.525), ("riemann_left", 0.475), ("linspace", 0.5)]
)
def test_what_each_published_code_makes_of_a_straight_line(rule: Rule, expected: float) -> None:
    path = Quadrature(rule, 20).integral(1e-14)
    while wanted := path.wanted():
        for x in wanted:
            path.know(x, x * x / 2, np.array([x]))
    assert path.scores[0] == pytest.approx(expected, abs=1e-12)
    assert path.nodes == 20
    assert not path.certified


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "simpson"}, "choose from adaptive, gauss_legendre, riemann"),
        ({"steps": 0}, "at least one step"),
        ({"tol": 0.0}, "tol must be above 0"),
        ({"max_nodes": 4}, "max_nodes 5 or more"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quadrature(**arguments)  # type: ignore[arg-type]
