"""The published search for shared neurons, one coarse set at a time."""

from __future__ import annotations


def published(
    scores: list[list[float]], fewest: int = 2, most: int = 5, share: float = 0.7
) -> tuple[set[int], float]:
    """Twenty tries, each a twentieth from the last, and what the last of them left.

    Returns:
        The neurons, and the share that left them.
    """
    coarse = [{i for i, x in enumerate(row) if x > 0.2 * max(row)} for row in scores]
    everything = set().union(*coarse)
    for _ in range(20):
        found = {i for i in everything if sum(i in one for one in coarse) > len(coarse) * share}
        tried = share
        if fewest <= len(found) <= most:
            break
        share = share - 0.05 if len(found) < fewest else share + 0.05
    return found, tried
