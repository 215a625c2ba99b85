"""The random control: an edit of the same shape and size as another method's, placed by chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from typing_extensions import override

from kn_sweeps.cases import Case, Intent
from kn_sweeps.edits import (
    Dense,
    Edit,
    InContext,
    Joint,
    LowRank,
    Neuron,
    NeuronScale,
    RankOne,
    State,
)
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan
from kn_sweeps.seeding import generator


@dataclass(frozen=True)
class RandomControl(Method):
    """What `of` would do, moved to a random place.

    As many neurons in the same layers, none of them the located ones; a low-rank update of the
    same layer and norms with random directions; or a dense change with its entries shuffled.

    Attributes:
        of: The method to control for.
    """

    of: Method

    @property
    @override
    def intent(self) -> Intent:
        """The controlled method's."""
        return self.of.intent

    @override
    def group(self, case: Case) -> str:
        """The controlled method's."""
        return self.of.group(case)

    @override
    def prepare(self, lm: LanguageModel, seed: int) -> None:
        """What `of` needs."""
        self.of.prepare(lm, seed)

    @override
    def carried(self, state: State, left: State) -> State:
        """The controlled method's."""
        return self.of.carried(state, left)

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """What `of` needs."""
        return self.of.needs(shape, work)

    @override
    def plan(
        self,
        lm: LanguageModel,
        cases: Sequence[Case],
        seed: int = 0,
        *,
        together: bool = False,
        state: State | None = None,
    ) -> Plan:
        """Plan with `of`, then move every edit."""
        plan = self.of.plan(lm, cases, seed, together=together, state=state)
        moved = {
            name: _moved(lm, edit, generator(seed, "random", name))
            for name, edit in plan.edits.items()
        }
        return Plan(moved, plan.edit_of, failed=plan.failed, intent=plan.intent, state=plan.state)


def _moved(lm: LanguageModel, edit: Edit, draw: torch.Generator) -> Edit:
    match edit:
        case NeuronScale(neurons, factor, where):
            per_layer = Counter(layer for layer, _ in neurons)
            placed: list[Neuron] = []
            for layer, count in sorted(per_layer.items()):
                free = sorted(
                    set(range(lm.architecture.d_ff)) - {i for at, i in neurons if at == layer}
                )
                drawn = torch.randperm(len(free), generator=draw)[:count].tolist()
                placed += [(layer, free[i]) for i in drawn]
            return NeuronScale(tuple(placed), factor, where)
        case RankOne(layer, u, v):
            return RankOne(layer, _turned(u, draw), _turned(v, draw))
        case LowRank(layer, u, v):
            return LowRank(layer, _turned(u, draw), _turned(v, draw))
        case Dense(layer, change):
            # Shuffled: every norm is the same, the largest change among them.
            order = torch.randperm(change.numel(), generator=draw)
            return Dense(layer, change.flatten()[order].reshape(change.shape))
        case InContext():
            raise ValueError("a text in context has no random counterpart; compare it with none")
        case Joint(parts):
            return Joint(tuple(_moved(lm, part, draw) for part in parts))


def _turned(x: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Vectors of the same lengths in random directions."""
    directions = torch.randn(x.shape, generator=draw)
    turned: torch.Tensor = directions * (x.norm(dim=-1) / directions.norm(dim=-1))[..., None]
    return turned
