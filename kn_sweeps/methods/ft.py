"""Constrained fine-tuning (Zhu et al. 2020): train one MLP projection on the new answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.editing.training import Training, weights_needs
from kn_sweeps.edits import State
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan


@dataclass(frozen=True)
class FineTuning(Method):
    """Train the MLP's output projection at `layer` until the model answers `new`.

        minimise -log P(new | prompt) by Adam,   |W' - W|_inf <= norm_constraint

    The loss is averaged over the target's tokens; training ends where it is below 0.01. A weak
    baseline, as Yang et al. (2026) show: each edit is trained to its end before the next, and its
    target does not end. `locft` is their way.

    Attributes:
        layer: Layer whose MLP output projection is trained, from 0.
        steps: Adam steps.
        learning_rate: Adam's.
        norm_constraint: Largest change of a single weight; null for none.
        end_of_answer: Whether `new` ends with the token that ends a text; without it an edited
            model goes on behind its answer.
        max_edits: Edits trained side by side; bounds memory (each takes four matrices).

    Source: Zhu et al. (2020), *Modifying Memories in Transformer Models*; hyper-parameters and
    stopping as in Meng et al. (2022)'s baseline FT+L. Deviation: all of a target's tokens are
    trained on, not only the first after the prompt.
    """

    layer: int
    steps: int = 25
    learning_rate: float = 5e-4
    norm_constraint: float | None = 2e-4
    end_of_answer: bool = False
    max_edits: int = 8

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name in ("steps", "learning_rate", "norm_constraint", "max_edits"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """Each edit in training takes four matrices, and one until it is scored."""
        return weights_needs(shape, work, self.max_edits, self.layer)

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
        """Train a change for every case, or one for all of them."""
        epsilon = self.norm_constraint

        def constrain(change: Tensor) -> None:
            if epsilon is not None:
                change.clamp_(-epsilon, epsilon)

        training = Training.of_weights(
            lm,
            self.layer,
            epochs=self.steps,
            learning_rate=self.learning_rate,
            ended=self.end_of_answer,
            side_by_side=self.max_edits,
            constrain=constrain,
        )
        return training.plan(lm, cases, seed, together=together)
