"""Nodes and weights of integrals over [0, 1]."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@cache
def patterson(nodes: int) -> tuple[list[float], Vector]:
    """Nested points in [0, 1] with both ends, and their weights, which sum to 1.

    2 and 3 points are the ends and the middle, 5 are Lobatto's, 9 and 17 the optimal extensions of
    those before: exact to degree 1, 3, 7, 13 and 25, all weights positive.

    Source: Patterson (1968), *The Optimum Addition of Points to Quadrature Formulae*.
    """
    if nodes == 2:
        points = [0.0, 1.0]
    elif nodes in (3, 5, 9, 17):
        points = _extended(patterson((nodes + 1) // 2)[0])
    else:
        raise ValueError(f"no nested rule has {nodes} nodes; choose from 2, 3, 5, 9, 17")
    moments = np.zeros(nodes)
    moments[0] = 1
    polynomials = np.polynomial.legendre.legvander(2 * np.array(points) - 1, nodes - 1)
    return points, np.asarray(np.linalg.solve(polynomials.T, moments), np.float64)


def _extended(points: list[float]) -> list[float]:
    """The points and as many new ones between them as raise the degree most.

    The new ones are the roots of the polynomial E with which prod(x - points) * E is orthogonal
    to every polynomial of lower degree than E.
    """
    n = len(points)
    x, weights = np.polynomial.legendre.leggauss(3 * n)
    old = np.prod(x[:, None] - (2 * np.array(points) - 1), axis=1)
    basis = np.polynomial.legendre.legvander(x, n - 1)
    products = (basis * (weights * old)[:, None]).T @ basis
    coefficients = np.linalg.solve(products[:-1, :-1], -products[:-1, -1])
    roots = np.polynomial.legendre.legroots([*coefficients, 1.0])
    new = [(1 + float(root)) / 2 for root in roots.real]
    return sorted([*points, *new])


@cache
def gauss_legendre(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes in [0, 1] and weights that sum to 1, exact for polynomials of degree 2 * nodes - 1."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return ((x + 1) / 2).tolist(), (weights / 2).tolist()
