"""Edits: frozen values that say what to change, never a changed model.

`interventions.applied` puts one into effect and takes it out again; `interventions.merge` writes
it into the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
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


@dataclass(frozen=True)
class LowRank:
    """Add `v^T u` to an MLP's output projection W (d_model x d_ff): y + v^T (u x).

    Attributes:
        layer: Whose projection, from 0.
        u: Directions read from the neurons.
        v: Directions written to the residual stream.
    """

    layer: int
    u: Float[Tensor, "rank d_ff"]
    v: Float[Tensor, "rank d_model"]


@dataclass(frozen=True)
class Dense:
    """Add `change^T` to an MLP's output projection W (d_model x d_ff): y + x change.

    Attributes:
        layer: Whose projection, from 0.
        change: Row i is added to what neuron i writes.
    """

    layer: int
    change: Float[Tensor, "d_ff d_model"]


@dataclass(frozen=True)
class Joint:
    """Several edits at once: what is added is summed, and neurons are scaled before all of it.

    Attributes:
        parts: In any order.
    """

    parts: tuple[Edit, ...]


Edit = NeuronScale | RankOne | LowRank | Dense | Joint


def parts(edit: Edit) -> Iterator[NeuronScale | RankOne | LowRank | Dense]:
    """What a joint edit is made of; any other edit is its own part."""
    if isinstance(edit, Joint):
        for part in edit.parts:
            yield from parts(part)
    else:
        yield edit


def joined(edits: Iterable[Edit]) -> Edit:
    """All of `edits` at once, with the low-rank ones of a layer in one."""
    rest: list[Edit] = []
    rows: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for part in (part for edit in edits for part in parts(edit)):
        match part:
            case RankOne(layer, u, v):
                rows.setdefault(layer, []).append((u[None], v[None]))
            case LowRank(layer, u, v):
                rows.setdefault(layer, []).append((u, v))
            case NeuronScale(()):
                pass
            case _:
                rest.append(part)
    for layer, pairs in rows.items():
        rest.append(
            LowRank(layer, torch.cat([u for u, _ in pairs]), torch.cat([v for _, v in pairs]))
        )
    return rest[0] if len(rest) == 1 else Joint(tuple(rest))


def is_identity(edit: Edit) -> bool:
    """Whether an edit is one that plainly changes nothing."""
    return all(
        isinstance(part, NeuronScale) and (not part.neurons or part.factor == 1)
        for part in parts(edit)
    )
