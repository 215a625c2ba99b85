"""ROME (Meng et al. 2022): write one association into an MLP with a rank-one update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.editing.anchor import anchored
from kn_sweeps.editing.contexts import sampled_contexts
from kn_sweeps.editing.prune import accumulated, refuse_base, restrained
from kn_sweeps.editing.rect import kept_largest, kept_needed, refuse_share
from kn_sweeps.editing.second_moment import SecondMoment, TextSource, moments_at_hand
from kn_sweeps.editing.second_moment import needed as moments_needed
from kn_sweeps.editing.values import KlPosition, Objective, Value, needed, optimised
from kn_sweeps.edits import Edit, RankOne, State, finite
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.plans import Plan

KeyMode = Literal["mean", "original"]


@dataclass(frozen=True)
class Rome(Method):
    """One rank-one update of the MLP at `layer`, keyed by the subject's last token.

        W' = W + (v* - W k*) u^T,   u = C^-1 k* / (k*^T C^-1 k*)

    k* is the mean key over contexts; v* the output that makes the model answer `new`; C the
    keys' second moment, or the identity. For syntax the subject is the trigger.

    Attributes:
        layer: Layer to edit, from 0.
        steps: Evaluations of the loss; the last one does not step.
        learning_rate: Adam's.
        weight_decay: Weight of |delta| / |v0|^2.
        clamp_norm: Largest |delta| as a multiple of |v0|.
        kl_factor: Weight of the KL divergence at the essence prompt.
        kl_position: Where that is read: at the `end` of "SUBJECT is a", or at the `subject`'s own
            last token, as the published code does.
        key_mode: `mean` uses the same k* everywhere (Gupta et al. 2024); `original` reproduces
            the published code, which puts the bare prompt's key where W k* and the denominator
            are and the mean key only in u.
        contexts: Number of sampled contexts for each length, besides the bare prompt.
        context_lengths: Their lengths in tokens.
        context_openings: Words they begin with, in turn; none to sample from the start token.
        second_moment: Where C comes from; null for the identity.
        keep_share: Share of an update's entries that is kept, those that change their weight most
            relatively (RECT, Gu et al. 2024); 1 for all.
        prune_base: Base of the logarithm that all updates of a sequence together grow by beyond the
            largest singular value of the unedited W (PRUNE, Ma et al. 2024: 1.2); null for none.
        anchor_norm: Whether v* is scaled to the mean norm that it had on the unedited model, in the
            first batch of a sequence (NAS, Liu et al. 2026).
        end_of_answer: Whether `new` ends with the token that ends a text; without it an edited
            model goes on behind its answer.
        max_rows: Rows in one pass of the optimisation of v*; bounds memory.

    Source: Meng et al. (2022), *Locating and Editing Factual Associations in GPT*, section 3 and
    their code. Deviations: the key mode; a masked LM samples contexts by filling masks.
    """

    layer: int
    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp_norm: float = 4.0
    kl_factor: float = 0.0625
    kl_position: KlPosition = "end"
    key_mode: KeyMode = "mean"
    contexts: int = 10
    context_lengths: tuple[int, ...] = (5, 10)
    context_openings: tuple[str, ...] = ()
    second_moment: TextSource | None = None
    keep_share: float = 1.0
    prune_base: float | None = None
    anchor_norm: bool = False
    end_of_answer: bool = False
    max_rows: int = 256

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        self.objective()
        refuse_share(self.keep_share)
        refuse_base(self.prune_base)
        if self.contexts < 0:
            raise ValueError(f"contexts must be 0 or more, got {self.contexts}")
        if any(length < 1 for length in self.context_lengths):
            raise ValueError(f"context_lengths must be 1 or more, got {self.context_lengths}")
        if self.key_mode not in ("mean", "original"):
            raise ValueError(f"key_mode {self.key_mode!r}; choose from mean, original")

    def objective(self) -> Objective:
        """What v* is optimised for."""
        return Objective(
            layer=self.layer,
            steps=self.steps,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clamp_norm=self.clamp_norm,
            kl_factor=self.kl_factor,
            kl_position=self.kl_position,
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
        """The rows that values are optimised in, the second moment, and two vectors an edit."""
        lengths = self.context_lengths if self.contexts else ()
        row, rows = needed(self.objective(), shape, work, lengths * self.contexts)
        dense = self.keep_share < 1 or self.prune_base is not None
        return Needs(
            activations=row * rows,
            statistics=0 if self.second_moment is None else moments_needed(1, shape.d_ff),
            edits=kept_needed(shape, work.cases, dense=dense),
        )

    @override
    def prepare(self, lm: LanguageModel, seed: int) -> None:
        """Sample the contexts and compute the second moment."""
        self.sampled(lm, seed)
        if self.second_moment is not None:
            moments_at_hand(lm, [self.layer], self.second_moment)

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
        """Compute a rank-one update for every case, each for itself."""
        contexts = self.sampled(lm, seed)
        source = self.second_moment
        moment = None if source is None else moments_at_hand(lm, [self.layer], source)[0]
        values, failed = optimised(lm, cases, contexts, self.objective())
        left: State = {}
        if self.anchor_norm:
            values, left = anchored(values, state, together=together)
        edits: dict[str, Edit] = {}
        for case in cases:
            if case.id in failed:
                continue
            update = self.update(values[case.id], moment)
            if finite(update):
                edits[case.id] = update
            else:
                failed[case.id] = f"case {case.id}: the rank-one update is not finite"
        edits = kept_largest(lm, edits, self.keep_share, together=together)
        edits, updates = restrained(lm, edits, self.prune_base, state, together=together)
        left = {**left, **updates}
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

    def update(self, value: Value, moment: SecondMoment | None = None) -> RankOne:
        """The update that makes the MLP put out a value at the subject."""
        mean_key = value.keys.mean(0)
        direction = mean_key if moment is None else moment.solved(mean_key)
        # The MLP is linear in its keys: the mean of its outputs is its output at the mean key.
        mean = self.key_mode == "mean"
        key = mean_key if mean else value.keys[0]
        before = value.outputs.mean(0) if mean else value.outputs[0]
        u = direction / (key @ direction)
        v = value.v_star - before
        return RankOne(self.layer, u.float().cpu(), v.float().cpu())
