"""Weights in few bits, one number at a time.

Source: Dettmers et al. 2023, *QLoRA*, section 3 and appendix E, for NF4: its levels are quantiles
of a normal distribution, 8 above 0 and 7 below it with 0 between, scaled to [-1, 1]; a weight is
the nearest level times the largest size in its block. Eight bits: the nearest of 255 multiples of
the largest size in the row, over 127.
"""

import numpy as np
from scipy.stats import norm
from torch import Tensor


def nf4_levels() -> list[float]:
    """The 16 levels."""
    end = 1 - (1 / (2 * 15) + 1 / (2 * 16)) / 2
    above = norm.ppf(np.linspace(end, 0.5, 9)[:-1])
    below = -norm.ppf(np.linspace(end, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([above, below, [0.0]]))
    return [float(x) for x in levels / levels.max()]


def four_bits(weight: Tensor, block: int = 64) -> list[float]:
    """A weight's numbers, flat."""
    flat, levels, found = weight.flatten().tolist(), nf4_levels(), []
    for start in range(0, len(flat), block):
        some = flat[start : start + block]
        scale = max(map(abs, some))
        for x in some:
            found.append(scale * min(levels, key=lambda level: abs(level * scale - x)))
    return found


def eight_bits(weight: Tensor) -> list[float]:
    """A weight's numbers, flat."""
    found = []
    for row in weight.tolist():
        step = max(map(abs, row)) / 127
        found += [step * round(x / step) if step else 0.0 for x in row]
    return found
