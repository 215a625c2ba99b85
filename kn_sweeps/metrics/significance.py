"""Significance of a change, and its correction for having tested many."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from kn_sweeps.metrics.bootstrap import FloatArray


def paired_test(pre: ArrayLike, post: ArrayLike) -> float:
    """Two-sided Wilcoxon signed-rank test that paired values moved neither up nor down.

    Ranks, because changes of a probability are far from normal. Pairs must be independent:
    average the rows of one edit first.

    Args:
        pre: Values before the edit, one a pair.
        post: Values after it, in the same order.

    Returns:
        The p-value; 1 where no pair changed.

    Raises:
        ValueError: If the two differ in shape, are empty, or hold a value that is not finite.
    """
    before, after = np.asarray(pre, dtype=np.float64), np.asarray(post, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise ValueError(
            "a paired test needs two equally long, non-empty lists, "
            f"got shapes {before.shape} and {after.shape}"
        )
    if not np.isfinite([before, after]).all():
        raise ValueError("a paired test needs finite values, got NaN or infinity: drop those pairs")
    from scipy.stats import wilcoxon  # takes a second to import, and every table reads this room

    change = after - before
    change = change[change != 0]
    return float(wilcoxon(change).pvalue) if change.size else 1.0


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down correction: adjusted p-values that bound the family-wise error.

    With p_(1) <= ... <= p_(m), the adjusted p_(i) is max_{j <= i} min(1, (m - j + 1) p_(j)).

    Args:
        p_values: The raw p-values of one family of tests, in [0, 1].

    Returns:
        The adjusted p-values, in the order given.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    if raw.ndim != 1 or not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p-values must be a list of numbers from 0 to 1, got {p_values!r}")
    order = np.argsort(raw)
    scaled = raw[order] * np.arange(len(raw), 0, -1)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted
