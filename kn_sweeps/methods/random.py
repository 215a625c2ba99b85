"""The random control: an edit of the same shape and size as another method's, placed by chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from kn_sweeps.cases import Case, Intent
from kn_sweeps.edits import Edit, Neuron, NeuronScale, RankOne
from kn_sweeps.methods.base import Method, Plan
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.seeding import generator


@dataclass(frozen=True)
class RandomControl:
    """What `of` would do, moved to a random place.

    As many neurons in the same layers, none of them the located ones; or a rank-one update of
    the same layer and norm with random directions.

    Attributes:
        of: The method to control for.
    """

    of: Method
    changes: ClassVar[bool] = True

    @property
    def intent(self) -> Intent:
        """The controlled method's."""
        return self.of.intent

    def group(self, case: Case) -> str:
        """The controlled method's."""
        return self.of.group(case)

    def plan(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Plan:
        """Plan with `of`, then move every edit."""
        plan = self.of.plan(lm, cases, seed)
        moved = {
            name: _moved(lm, edit, generator(seed, "random", name))
            for name, edit in plan.edits.items()
        }
        return Plan(moved, plan.edit_of)


def _moved(lm: LanguageModel, edit: Edit, draw: torch.Generator) -> Edit:
    match edit:
        case NeuronScale(neurons, factor):
            per_layer = Counter(layer for layer, _ in neurons)
            placed: list[Neuron] = []
            for layer, count in sorted(per_layer.items()):
                free = sorted(
                    set(range(lm.architecture.d_ff)) - {i for at, i in neurons if at == layer}
                )
                drawn = torch.randperm(len(free), generator=draw)[:count].tolist()
                placed += [(layer, free[i]) for i in drawn]
            return NeuronScale(tuple(placed), factor)
        case RankOne(layer, u, v):
            directions = [torch.randn(x.numel(), generator=draw) for x in (u, v)]
            sizes = [float(x.norm()) for x in (u, v)]
            new_u, new_v = (
                size * direction / direction.norm()
                for size, direction in zip(sizes, directions, strict=True)
            )
            return RankOne(layer, new_u, new_v)
