"""PRUNE (Ma et al. 2024, section 4.3) as it is written: the whole update, one value at a time.

F(s) = log_base(s) - log_base(max s_0) + max s_0   if s > max s_0, else s
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def pruned(
    weights: NDArray[np.float64], update: NDArray[np.float64], base: float
) -> NDArray[np.float64]:
    """The update of all edits, restrained by the singular values of the unedited weights."""
    largest = max(np.linalg.svd(weights)[1])
    u, values, v = np.linalg.svd(update)
    whole = np.zeros(update.shape)
    for n, s in enumerate(values):
        if s > largest:
            s = math.log(s, base) - math.log(largest, base) + largest
        whole += s * np.outer(u[:, n], v[n])
    return whole
