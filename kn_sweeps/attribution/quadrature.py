"""Integrals of vector-valued functions over [0, 1], with an estimate of their error.

`Quadrature` says how; a `PathIntegral` is one integral under way. It asks for the function at some
points, is told, and asks again, so that whoever evaluates the function can do many integrals'
points in one batch.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from kn_sweeps.attribution.rules import Vector, gauss_legendre, patterson

Rule = Literal["adaptive", "gauss_legendre", "riemann", "riemann_left", "linspace"]

FLOOR = 1e-6
"""A change of the measure below this counts as this when a residual is judged."""

_FIRST, _TOP = 5, 17
"""Nodes of a panel at first and at most."""
_FAST = 0.3
"""Doubling a panel's nodes must shrink their effect to this share, else the panel is halved."""
_SHARPEST = 2.0**20
"""More is taken for this much."""
_WIDE = 3.0
"""Width of a first panel in the logarithm of alpha, about."""
_NEAR = 100
"""How many times the sure floor of rounding a residual may be to count as rounding."""
_SHARE = 0.2
"""Panels whose error is above this share of the worst one's are refined together."""


@dataclass(frozen=True)
class Quadrature:
    """How a path integral is taken, and when it is good enough.

    Attributes:
        rule: `adaptive`: nested rules on panels, refined where they fail. The others are fixed,
            for comparison: they have no estimate of their error and so are never certified.
            `gauss_legendre` is exact for polynomials of degree 2 * steps - 1. `riemann` takes the
            right ends of `steps` equal steps, k / steps for k = 1 to steps, as Dai et al. (2022)
            write in eq. 2; `riemann_left` their left ends, k = 0 to steps - 1, as the code of
            Dai et al. computes; `linspace` takes as many points from 0 to 1, both ends included,
            each with weight 1 / steps, as EleutherAI's knowledge-neurons and Niu et al.'s (2024)
            kn_thesis do. All of them with 20. On f(alpha) = alpha they give .525, .475 and .5.
        steps: Nodes of a fixed rule.
        tol: Largest completeness residual, as a share of max(|P(a) - P(0)|, 1e-6), and largest
            estimated error of the scores, as a share of their length (2-norm).
        max_nodes: Nodes of an adaptive integral at most; what is not good enough by then stays so.
    """

    rule: Rule = "adaptive"
    steps: int = 20
    tol: float = 1e-3
    max_nodes: int = 512

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.rule not in get_args(Rule):
            raise ValueError(f"quadrature {self.rule!r}; choose from {', '.join(get_args(Rule))}")
        if self.steps < 1:
            raise ValueError(f"a quadrature needs at least one step, got {self.steps}")
        if self.tol <= 0 or self.max_nodes < _FIRST:
            raise ValueError(
                f"tol must be above 0 and max_nodes {_FIRST} or more, got {self.tol} and "
                f"{self.max_nodes}"
            )

    def integral(self, rounding: float, sharpness: float = 1.0) -> PathIntegral:
        """A new integral.

        Args:
            rounding: Relative accuracy to which the integrand is known.
            sharpness: It may change fast where alpha is below 1 / sharpness, and above with alpha's
                logarithm.
        """
        if self.rule == "adaptive":
            return _Adaptive(self, rounding, sharpness)
        return _Fixed(self)


class PathIntegral(ABC):
    """The integral of a path's scores, and the measure at both ends.

    Attributes:
        nodes: How many points the result uses.
    """

    def __init__(self, quadrature: Quadrature) -> None:
        """Start with no point known."""
        self._quadrature = quadrature
        self._values: dict[float, float] = {}
        self._scores: dict[float, Vector] = {}

    def know(self, alpha: float, value: float, scores: Vector) -> None:
        """Take in the measure and the integrand at `alpha`."""
        self._values[alpha] = value
        self._scores[alpha] = scores

    @abstractmethod
    def wanted(self) -> list[float]:
        """Points to be evaluated before it goes on; empty when it is finished."""

    @property
    @abstractmethod
    def scores(self) -> Vector:
        """The integral."""

    @property
    @abstractmethod
    def error(self) -> float:
        """Estimated error of the scores as a share of their length; NaN without an estimate."""

    @property
    def nodes(self) -> int:
        """How many points were evaluated."""
        return len(self._scores)

    @property
    def start(self) -> float:
        """The measure at 0."""
        return self._values[0.0]

    @property
    def residual(self) -> float:
        """|sum of scores - (measure at 1 - measure at 0)|."""
        return abs(float(self.scores.sum()) - (self._values[1.0] - self._values[0.0]))

    @property
    def complete(self) -> bool:
        """Whether the residual is within the tolerance."""
        return self.residual <= self._quadrature.tol * self._change

    @property
    def certified(self) -> bool:
        """Whether residual and estimated error are within the tolerance."""
        return self.complete and self.error <= self._quadrature.tol

    @property
    def unclear(self) -> bool:
        """Whether it is not certified for rounding alone: more precision, not more nodes, helps."""
        return False

    @property
    def _change(self) -> float:
        return max(abs(self._values[1.0] - self._values[0.0]), FLOOR)

    def _missing(self, alphas: Iterable[float]) -> list[float]:
        return [alpha for alpha in alphas if alpha not in self._scores]


class _Fixed(PathIntegral):
    """One rule, all points at once."""

    def wanted(self) -> list[float]:
        return self._missing([0.0, 1.0, *self._rule()[0]])

    @property
    def scores(self) -> Vector:
        total: Vector = sum(
            weight * self._scores[alpha] for alpha, weight in zip(*self._rule(), strict=True)
        )  # type: ignore[assignment]
        return total

    @property
    def error(self) -> float:
        return float("nan")

    @property
    def nodes(self) -> int:
        return self._quadrature.steps

    def _rule(self) -> tuple[list[float], list[float]]:
        rule, steps = self._quadrature.rule, self._quadrature.steps
        if rule == "gauss_legendre":
            return gauss_legendre(steps)
        if rule == "linspace":
            points = np.linspace(0, 1, steps).tolist()
        else:
            points = [k / steps for k in range(rule == "riemann", steps + (rule == "riemann"))]
        return points, [1 / steps] * steps


@dataclass(frozen=True)
class _Panel:
    """Part of the path with its nested rules evaluated: n, n/2 and n/4 intervals."""

    start: float
    stop: float
    nodes: int
    scores: Vector
    residual: float
    last: float
    before: float

    @property
    def ratio(self) -> float:
        """How far the last doubling moved the scores, as a share of the one before."""
        return self.last / self.before if self.before > 0 else float(self.last > 0)

    @property
    def error(self) -> float:
        """Estimated error of `scores`.

        `last` is the error of the rule with half the intervals. Where the rules converge
        geometrically the next step would shrink it to `last * ratio^2` or less: the exponents go
        1, 2, 4 and so do the logarithms of the errors.
        """
        return self.last * min(1.0, self.ratio) ** 2


class _Adaptive(PathIntegral):
    """Nested rules on panels: more nodes where that helps fast, halves where it does not.

    Panels are parts of t in [0, 1], with alpha = sinh(T t) / sinh(T) and sinh(T) the sharpness s.
    What is added to a longer vector or passes a norm changes by directions alone: with
    alpha / (alpha^2 + s^-2)^(1/2) = tanh(T t), and crosswise with (alpha^2 + s^-2)^(-1/2) dalpha,
    which is T dt.

    Source: the doubly adaptive scheme of Gonnet (2010), *Increasing the Reliability of Adaptive
    Quadrature Using Explicit Interpolants*, with a plainer estimate of the error and with
    completeness as a second one, which is exact.
    """

    def __init__(self, quadrature: Quadrature, rounding: float, sharpness: float) -> None:
        super().__init__(quadrature)
        self._rounding = rounding
        self._before = self._error_before = math.inf
        self._good = False
        # A sharpness of 1 or less, or one that is not a number: alpha is t.
        self._stretch = math.asinh(min(sharpness, _SHARPEST)) if sharpness > 1 else 0.0
        most = (quadrature.max_nodes - 1) // (_FIRST - 1)
        panels = min(max(1, round(self._stretch / _WIDE)), most)
        ends = [n / panels for n in range(panels + 1)]
        self._pending = [(start, stop, _FIRST) for start, stop in itertools.pairwise(ends)]
        self._panels: list[_Panel] = []

    def wanted(self) -> list[float]:
        while self._pending:
            if missing := self._missing(self._alphas(self._pending)):
                return missing
            self._panels += [self._panel(*panel) for panel in self._pending]
            self._good = self._finished()
            self._pending = [] if self._good else self._refined()
        return []

    @property
    def certified(self) -> bool:
        # Numbers that are less exact than the tolerance can meet it by chance only.
        return self._rounding < self._quadrature.tol and super().certified

    @property
    def unclear(self) -> bool:
        return self._good and not self.certified

    @property
    def scores(self) -> Vector:
        total: Vector = np.sum([panel.scores for panel in self._panels], axis=0)
        return total

    @property
    def error(self) -> float:
        length = float(np.linalg.norm(self.scores))
        total = sum(panel.error for panel in self._panels)
        return total / length if length > 0 else float(total > 0)

    def _alpha(self, t: float) -> float:
        # The ends are taken as they are.
        if t in (0.0, 1.0) or not self._stretch:
            return t
        return math.sinh(self._stretch * t) / math.sinh(self._stretch)

    def _speed(self, t: float) -> float:
        """How fast alpha changes with t."""
        if not self._stretch:
            return 1.0
        return self._stretch * math.cosh(self._stretch * t) / math.sinh(self._stretch)

    def _alphas(self, panels: Iterable[tuple[float, float, int]]) -> list[float]:
        return sorted({self._alpha(t) for panel in panels for t in _points(*panel)})

    def _panel(self, start: float, stop: float, nodes: int) -> _Panel:
        points = _points(start, stop, nodes)
        y = np.stack([self._speed(t) * self._scores[self._alpha(t)] for t in points])
        nested = [
            (stop - start) * (patterson((nodes - 1) // step + 1)[1] @ y[::step])
            for step in (1, 2, 4)
        ]
        change = self._values[self._alpha(stop)] - self._values[self._alpha(start)]
        return _Panel(
            start,
            stop,
            nodes,
            nested[0],
            abs(float(nested[0].sum()) - change),
            float(np.linalg.norm(nested[0] - nested[1])),
            float(np.linalg.norm(nested[1] - nested[2])),
        )

    def _finished(self) -> bool:
        # Rounding sets both numbers a floor that more nodes cannot lower: it is reached for sure
        # at `_rounding`, and by all appearance where a residual near it no longer shrinks.
        tol, before = self._quadrature.tol, self._before
        self._before = residual = self.residual
        floor = self._rounding * max(abs(value) for value in self._values.values())
        stalled = residual > before / 2 and residual < _NEAR * floor
        good = stalled or residual <= max(tol * self._change, floor)
        return good and (self.error <= max(tol, self._rounding) or self._rounded_off())

    def _rounded_off(self) -> bool:
        """Whether the estimated error is what rounding leaves, which more nodes cannot lower.

        Where `_rounding` is above the tolerance (bfloat16, float16) nothing can be certified, so
        that nodes are worth their cost only as long as each round of them halves the error.
        """
        before, self._error_before = self._error_before, self.error
        return self._rounding >= self._quadrature.tol and self.error > before / 2

    def _refined(self) -> list[tuple[float, float, int]]:
        """Take the worst panels away and say what replaces them; nothing if that is too much."""
        tol = self._quadrature.tol
        length = max(float(np.linalg.norm(self.scores)), np.finfo(np.float64).tiny)
        badness = [
            max(panel.error / (tol * length), panel.residual / (tol * self._change))
            for panel in self._panels
        ]
        limit = _SHARE * max(badness)
        worst = [p for p, bad in zip(self._panels, badness, strict=True) if bad >= limit]
        pending = [part for panel in worst for part in _parts(panel)]
        new = self._missing(self._alphas(pending))
        if self.nodes + len(new) > self._quadrature.max_nodes:
            return []
        self._panels = [p for p, bad in zip(self._panels, badness, strict=True) if bad < limit]
        return pending


def _parts(panel: _Panel) -> list[tuple[float, float, int]]:
    start, stop = panel.start, panel.stop
    if panel.nodes < _TOP and panel.ratio < _FAST:
        return [(start, stop, 2 * panel.nodes - 1)]
    middle = (start + stop) / 2
    return [(start, middle, _FIRST), (middle, stop, _FIRST)]


def _points(start: float, stop: float, nodes: int) -> list[float]:
    # The ends are taken as they are, so that neighbours share them bit for bit.
    inner = patterson(nodes)[0][1:-1]
    return [start, *(start + (stop - start) * x for x in inner), stop]
