"""How rare a neuron is among those that several queries share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

THRESHOLD = 0.2
"""A query's cluster are the neurons that score above this share of its largest score."""


def inverse_cluster(
    scores: Sequence[Float[Tensor, "layers d_ff"]], threshold: float = THRESHOLD
) -> Float[Tensor, "layers d_ff"]:
    """Each neuron's log(|Q| / (1 + number of queries of Q whose cluster it is in)), at least 0.

    Args:
        scores: Each query's.
        threshold: What a cluster is.

    Source: Chen, Dejl & Toni (2025), *Identifying Query-Relevant Neurons in Large Language Models
    for Long-Form Texts*: inverse cluster attribution. Deviation: a neuron of all clusters has 0,
    where the formula falls a little below.
    """
    inside = torch.stack([one > threshold * one.max() for one in scores]).sum(0)
    return (len(scores) / (1 + inside)).log().clamp(min=0)
