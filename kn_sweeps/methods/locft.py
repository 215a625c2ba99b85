"""Localised fine-tuning (Yang et al. 2026): breadth-first, in epochs of mini-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.editing.training import Training, weights_needs
from kn_sweeps.edits import State
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan


@dataclass(frozen=True)
class LocalisedFineTuning(Method):
    """Train one MLP output projection on all edits of a batch, epoch by epoch.

        minimise the mean over a mini-batch of -log P(new, end of text | prompt) / tokens,   by Adam

    Every epoch reads all answers once, in a new order and in mini-batches; a mini-batch with a loss
    below 0.01 is passed over, and training ends with the epoch whose mean loss is below that.
    Edits that are made one at a time are trained one at a time: then an epoch is one step.

    Attributes:
        layer: Layer whose MLP output projection is trained, from 0.
        epochs: Epochs at most.
        learning_rate: Adam's.
        batch_size: Cases of a mini-batch.
        end_of_answer: Whether `new` ends with the token that ends a text; of a masked LM, whose
            slot ends by itself, it does not.
        max_edits: Edits trained side by side where each is trained alone; bounds memory (each
            takes four matrices).

    Source: Yang et al. (2026), *Fine-tuning Done Right in Model Editing*, and their code.
    """

    layer: int
    epochs: int = 25
    learning_rate: float = 5e-4
    batch_size: int = 100
    end_of_answer: bool = True
    max_edits: int = 8

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name in ("epochs", "learning_rate", "batch_size", "max_edits"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")

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
        training = Training.of_weights(
            lm,
            self.layer,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            ended=self.end_of_answer and lm.kind == "causal",
            side_by_side=self.max_edits,
            batch_size=self.batch_size,
        )
        return training.plan(lm, cases, seed, together=together)
