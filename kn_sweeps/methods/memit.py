"""MEMIT (Meng et al. 2023): write many associations at once, spread over several MLPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.editing.anchor import anchored
from kn_sweeps.editing.contexts import sampled_contexts
from kn_sweeps.editing.prune import accumulated, refuse_base, restrained
from kn_sweeps.editing.rect import kept_largest, kept_needed, refuse_share
from kn_sweeps.editing.requests import Request, requests_of
from kn_sweeps.editing.second_moment import TextSource, moments_at_hand
from kn_sweeps.editing.second_moment import needed as moments_needed
from kn_sweeps.editing.spread import Solve, ridge, spread
from kn_sweeps.editing.values import KlPosition, Objective, needed, optimise
from kn_sweeps.edits import Edit, State, finite
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan


@dataclass(frozen=True)
class Memit(Method):
    """Updates of several MLPs, keyed by the subject's last token.

        Delta_l = R K^T (covariance_weight C + K K^T)^-1

    K are the edits' keys at layer l, R what is missing at the last layer of what was optimised
    there, divided by the number of layers left; C the keys' second moment, or the identity. In a
    sequence K and R are those of the model as edited so far, C is that of the unedited one.

    Attributes:
        layers: Layers to edit, ascending, from 0; the last is where the values are optimised.
        covariance_weight: Weight of C: how much keys of other text are protected.
        second_moment: Where C comes from; null for the identity.
        steps: Evaluations of the loss; the last one does not step.
        learning_rate: Adam's.
        weight_decay: Weight of |delta| / |h0|^2.
        clamp_norm: Largest |delta| as a multiple of the hidden state's norm |h0|.
        kl_factor: Weight of the KL divergence at the essence prompt.
        kl_position: Where that is read: at the `end` of "SUBJECT is a", or at the `subject`'s own
            last token, as the published code does.
        contexts: Number of sampled contexts for each length, besides the bare prompt.
        context_lengths: Their lengths in tokens.
        context_openings: Words they begin with, in turn; none to sample from the start token.
        keep_share: Share of an update's entries that is kept, those that change their weight most
            relatively (RECT, Gu et al. 2024); 1 for all.
        prune_base: Base of the logarithm that all updates of a sequence together grow by beyond the
            largest singular value of the unedited W (PRUNE, Ma et al. 2024: 1.2); null for none.
        anchor_norm: Whether v* is scaled to the mean norm that it had on the unedited model, in the
            first batch of a sequence (NAS, Liu et al. 2026).
        end_of_answer: Whether `new` ends with the token that ends a text; without it an edited
            model goes on behind its answer.
        max_rows: Rows in one pass of the optimisation; bounds memory.

    Source: Meng et al. (2023), *Mass-Editing Memory in a Transformer*, section 4, and their code.
    Deviation: their contexts always begin with one of five words, ours where the model needs it.
    """

    layers: tuple[int, ...]
    covariance_weight: float
    second_moment: TextSource | None = None
    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp_norm: float = 0.75
    kl_factor: float = 0.0625
    kl_position: KlPosition = "end"
    contexts: int = 5
    context_lengths: tuple[int, ...] = (10,)
    context_openings: tuple[str, ...] = ()
    keep_share: float = 1.0
    prune_base: float | None = None
    anchor_norm: bool = False
    end_of_answer: bool = False
    max_rows: int = 256

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers must be some layers in ascending order, got {self.layers}")
        if self.covariance_weight < 0:
            raise ValueError(f"covariance_weight must be 0 or more, got {self.covariance_weight}")
        refuse_share(self.keep_share)
        refuse_base(self.prune_base)
        self.objective()

    def objective(self) -> Objective:
        """What the values are optimised for."""
        return Objective(
            layer=self.layers[-1],
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clamp_norm=self.clamp_norm,
            kl_factor=self.kl_factor,
            kl_position=self.kl_position,
            relative_to_state=True,
            max_rows=self.max_rows,
            end_of_answer=self.end_of_answer,
        )

    def sampled(self, lm: LanguageModel, seed: int) -> list[str]:
        """The contexts, the empty one first."""
        return sampled_contexts(
            lm, seed, self.contexts, self.context_lengths, self.context_openings
        )

    @override
    def needs(self, shape: Shape, work: Work) -> Needs:
        """As ROME's, for every layer; values are optimised at the last of them."""
        lengths = self.context_lengths if self.contexts else ()
        row, rows = needed(self.objective(), shape, work, lengths * self.contexts)
        layers = len(self.layers)
        dense = self.keep_share < 1 or self.prune_base is not None
        return Needs(
            activations=row * rows,
            statistics=0 if self.second_moment is None else moments_needed(layers, shape.d_ff),
            edits=layers * kept_needed(shape, work.cases, dense=dense),
        )

    @override
    def prepare(self, lm: LanguageModel, seed: int) -> None:
        """Sample the contexts and compute the second moments."""
        self.sampled(lm, seed)
        self.solver(lm)

    def solver(self, lm: LanguageModel, state: State | None = None) -> Solve:
        """How a layer's keys become the directions that write.

        Args:
            lm: The model.
            state: As in `plan`; MEMIT itself has none.

        Raises:
            ValueError: If it cannot edit the model (`check`), or a second moment cannot be had.
        """
        del state
        self.check(lm)
        if self.second_moment is None:
            return lambda _layer, keys: ridge(keys, keys, self.covariance_weight)
        moments = moments_at_hand(lm, self.layers, self.second_moment)
        by_layer = {moment.layer: moment for moment in moments}

        def solve(layer: int, keys: Tensor) -> Tensor:
            return ridge(keys, by_layer[layer].solved(keys), self.covariance_weight)

        return solve

    def check(self, lm: LanguageModel) -> None:
        """Refuse a model that it cannot edit.

        Raises:
            ValueError: If a layer does not exist, or what MLPs put out is not itself added to the
                hidden states.
        """
        if not lm.architecture.adds_as_is:
            raise ValueError(
                f"{lm.name}: MEMIT and AlphaEdit write into MLPs what is missing of a hidden "
                f"state; in the family {lm.architecture.model_type!r} what an MLP writes passes "
                "a norm or is multiplied before it is added; use method=rome or method=ft"
            )
        for layer in self.layers:
            lm.architecture.check_layer(layer)

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
        """Solve for every case by itself, or for all of them at once."""
        solve = self.solver(lm, state)
        contexts = self.sampled(lm, seed)
        requests, failed = requests_of(
            lm, cases, contexts, essence=self.kl_factor > 0, ended=self.end_of_answer
        )
        values, messages = optimise(lm, requests, self.objective())
        failed |= messages
        anchor: State = {}
        if self.anchor_norm:
            values, anchor = anchored(values, state, together=together)
        kept = [request for request in requests if request.case in values]
        edits = spread(lm, kept, values, self.layers, solve, together=together) if kept else {}
        for case in [case for case, edit in edits.items() if not finite(edit)]:
            failed[case] = f"case {case}: the update is not finite"
            del edits[case]
        edits = kept_largest(lm, edits, self.keep_share, together=together)
        edits, updates = restrained(lm, edits, self.prune_base, state, together=together)
        kept = [request for request in kept if request.case in edits]
        own = self.left(lm, kept, edits) if state is not None and kept else {}
        left = {**anchor, **updates, **own}
        return Plan(
            edits,
            {case: case for case in edits},
            failed=failed,
            contexts=tuple(contexts),
            state=(left,) if left else (),
        )

    @override
    def carried(self, state: State, left: State) -> State:
        """The anchor, and what all updates add up to."""
        return accumulated(state, left)

    def left(
        self, lm: LanguageModel, requests: Sequence[Request], edits: Mapping[str, Edit]
    ) -> State:
        """What edits that are in effect at once leave to later ones of a sequence."""
        del lm, requests, edits
        return {}
