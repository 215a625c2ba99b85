"""LoRA (Hu et al. 2022) as an editing baseline: train low-rank adapters on the new answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.editing.training import Training, training_needs
from kn_sweeps.edits import Edit, LowRank, State, joined
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan
from kn_sweeps.seeding import generator


@dataclass(frozen=True)
class Lora(Method):
    """Train a low-rank change of the MLPs' output projections W until the model answers `new`.

        minimise -log P(new | prompt) over A, B by Adam,   W' = W + alpha / rank * B A

    A (rank x d_ff) starts uniform within 1 / sqrt(d_ff), B (d_model x rank) at zero. The loss is
    averaged over a target's tokens, and over the cases of a mini-batch where one change is trained
    on many; training ends where it is below 0.01. The edit is of low rank as others are: in effect
    by hooks, and exported as a change of weights.

    Attributes:
        layers: Layers whose MLP output projections are adapted, ascending, from 0; None for all.
        rank: Of each change.
        alpha: Its factor, times the rank.
        epochs: Times that every answer is read at most; of an edit made alone, Adam steps.
        learning_rate: Adam's.
        batch_size: Cases of a mini-batch where edits are made together.
        end_of_answer: Whether `new` ends with the token that ends a text; without it an edited
            model goes on behind its answer.
        max_edits: Edits trained side by side where each is trained alone; bounds memory.

    Source: Hu et al. (2022), *LoRA: Low-Rank Adaptation of Large Language Models*, section 4.1;
    rank, alpha, rate and steps are those of EasyEdit's baseline. Deviations: MLP output projections
    are adapted, where facts are edited by all other methods, not the attention's queries and
    values; there is no dropout.
    """

    layers: tuple[int, ...] | None = None
    rank: int = 8
    alpha: float = 32.0
    epochs: int = 70
    learning_rate: float = 5e-3
    batch_size: int = 32
    end_of_answer: bool = False
    max_edits: int = 8

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name in ("rank", "alpha", "epochs", "learning_rate", "batch_size", "max_edits"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers must name one at least, or be null for all")
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must be some layers in ascending order, got {self.layers}")

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """Each edit in training takes four times its adapters, and once until it is scored."""
        layers = tuple(range(shape.layers)) if self.layers is None else self.layers
        numbers = len(layers) * self.rank * (shape.d_ff + shape.d_model)
        return training_needs(
            shape,
            work,
            self.max_edits,
            numbers=numbers,
            layers=len(layers),
            first=layers[0],
            kept=4 * numbers,
        )

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
        """Train adapters for every case, or those of one edit for all of them."""
        layers = tuple(range(lm.architecture.layers)) if self.layers is None else self.layers
        for layer in layers:
            lm.architecture.check_layer(layer)
        d_ff, scale = lm.architecture.d_ff, self.alpha / self.rank

        def adds(n: int) -> Callable[[Tensor, Tensor], Tensor]:
            def add(adapters: Tensor, neurons: Tensor) -> Tensor:
                a, b = adapters[n, :, :d_ff], adapters[n, :, d_ff:]
                return scale * (neurons @ a.T @ b)

            return add

        def edit(adapters: Tensor) -> Edit:
            a, b = adapters[:, :, :d_ff].float().cpu(), adapters[:, :, d_ff:].float().cpu()
            return joined(LowRank(at, a[n], scale * b[n]) for n, at in enumerate(layers))

        training = Training(
            adds={layer: adds(n) for n, layer in enumerate(layers)},
            start=lambda case: self.begun(lm, len(layers), seed, case),
            edit=edit,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            ended=self.end_of_answer,
            side_by_side=self.max_edits,
            batch_size=self.batch_size,
        )
        return training.plan(lm, cases, seed, together=together)

    def begun(
        self, lm: LanguageModel, layers: int, seed: int, case: str
    ) -> Float[Tensor, "layers rank d_ff_and_d_model"]:
        """A, and B transposed behind it, before the first step: together no change."""
        shape = (layers, self.rank, lm.architecture.d_ff)
        drawn = torch.rand(shape, generator=generator(seed, "lora", case), dtype=torch.float64)
        a = (2 * drawn - 1) / lm.architecture.d_ff**0.5
        b = torch.zeros(layers, self.rank, lm.architecture.d_model)
        wide = torch.promote_types(lm.model.dtype, torch.float32)
        return torch.cat([a, b], -1).to(lm.device, wide)
