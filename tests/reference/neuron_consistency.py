"""Chen et al.'s consistency score with sets, one neuron at a time.

Formula: CS = |{n : n in N_i for more than one i}| / |N_1 u ... u N_k|, N_i the neurons of query i
that score above a share of its largest score.
"""

from collections.abc import Sequence


def score(rows: Sequence[Sequence[float]], threshold: float) -> float:
    """CS of some queries' attributions, one row a query."""
    sets = [
        {i for i, one in enumerate(row) if one > threshold * max(row) and one > 0} for row in rows
    ]
    every = set().union(*sets)
    shared = [n for n in every if sum(n in one for one in sets) > 1]
    return len(shared) / len(every)
