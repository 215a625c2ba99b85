"""Rules for integrals over [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

Rule = Literal["gauss_legendre", "riemann"]


@dataclass(frozen=True)
class Quadrature:
    """Nodes and weights on [0, 1], and when there are enough of them.

    Attributes:
        rule: `gauss_legendre` is exact for polynomials of degree 2 * nodes - 1. `riemann` takes
            the right end of `nodes` equal steps, as Dai et al. (2022) do with 20.
        nodes: How many points at first.
        max_nodes: How many at most: a layer whose residual is too large gets twice as many, again
            and again. Not above `nodes` means never.
        tolerance: Largest residual, as a share of the change it belongs to.
    """

    rule: Rule = "gauss_legendre"
    nodes: int = 8
    max_nodes: int = 0
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse a rule that does not exist."""
        if self.rule not in get_args(Rule):
            raise ValueError(f"quadrature {self.rule!r}; choose from {', '.join(get_args(Rule))}")
        if self.nodes < 1:
            raise ValueError(f"a quadrature needs at least one node, got {self.nodes}")

    def refined(self) -> Quadrature | None:
        """The same rule with twice the nodes; None beyond `max_nodes`."""
        doubled = replace(self, nodes=2 * self.nodes)
        return doubled if doubled.nodes <= self.max_nodes else None

    def points(self) -> tuple[list[float], list[float]]:
        """Nodes in [0, 1] and weights that sum to 1."""
        if self.rule == "riemann":
            steps = np.arange(1, self.nodes + 1) / self.nodes
            return steps.tolist(), [1 / self.nodes] * self.nodes
        nodes, weights = np.polynomial.legendre.leggauss(self.nodes)
        return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
