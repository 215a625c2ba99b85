"""Edits: frozen values that say what to change, never a changed model.

`interventions.applied` puts one into effect and takes it out again; `interventions.merge` writes
it into the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Neuron = tuple[int, int]
"""One input coordinate of an MLP's output projection: (layer, index), both from 0."""


@dataclass(frozen=True)
class NeuronScale:
    """Multiply neurons by a factor at every position.

    Attributes:
        neurons: Which; none at all is the identity.
        factor: 0 suppresses, 2 enhances.
    """

    neurons: tuple[Neuron, ...]
    factor: float


@dataclass(frozen=True)
class RankOne:
    """Add `outer(v, u)` to an MLP's output projection W (d_model x d_ff): y + (x.u) v.

    Attributes:
        layer: Whose projection, from 0.
        u: Direction read from the neurons.
        v: Direction written to the residual stream.
    """

    layer: int
    u: Float[Tensor, " d_ff"]
    v: Float[Tensor, " d_model"]


Edit = NeuronScale | RankOne
