"""ROME (Meng et al. 2022): write one association into an MLP with a rank-one update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.cases import Case, Intent, Probe
from kn_sweeps.edits import RankOne
from kn_sweeps.interventions import outputs_replaced, recorded
from kn_sweeps.methods.base import Plan, edit_probe
from kn_sweeps.models.language_model import Batch, LanguageModel, Row
from kn_sweeps.models.tokenization import Encoded, UnscorableError
from kn_sweeps.seeding import generator

_Contexts = dict[tuple[int, int, tuple[int, ...]], list[str]]
_CONTEXTS: WeakKeyDictionary[LanguageModel, _Contexts] = WeakKeyDictionary()
_ENOUGH = 5e-2


@dataclass(frozen=True)
class Rome:
    """One rank-one update of the MLP at `layer`, keyed by the subject's last token.

        W' = W + (v* - W k*) u^T,   u = C^-1 k* / (k*^T C^-1 k*)

    k* is the mean key over contexts; v* the output that makes the model answer `new`; C is the
    identity. For syntax the subject is the trigger.

    Attributes:
        layer: Layer to edit, from 0.
        steps: Evaluations of the loss; the last one does not step.
        learning_rate: Adam's.
        weight_decay: Weight of |delta| / |v0|^2.
        clamp_norm: Largest |delta| as a multiple of |v0|.
        kl_factor: Weight of the KL divergence at the essence prompt.
        key_mode: `mean` uses the same k* everywhere (Gupta et al. 2024); `original` reproduces
            the published code, which puts the bare prompt's key where W k* and the denominator
            are and the mean key only in u.
        contexts: Number of sampled contexts for each length, besides the bare prompt.
        context_lengths: Their lengths in tokens.

    Source: Meng et al. (2022), *Locating and Editing Factual Associations in GPT*, section 3 and
    their code. Deviations: the key mode; a masked LM samples contexts by filling masks.
    """

    layer: int
    steps: int = 20
    learning_rate: float = 0.5
    weight_decay: float = 0.5
    clamp_norm: float = 4.0
    kl_factor: float = 0.0625
    key_mode: Literal["mean", "original"] = "mean"
    contexts: int = 10
    context_lengths: tuple[int, ...] = (5, 10)

    intent: ClassVar[Intent] = "replace"
    changes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if min(self.learning_rate, self.clamp_norm) <= 0:
            raise ValueError("learning_rate and clamp_norm must be above 0")
        if min(self.weight_decay, self.kl_factor, self.contexts) < 0:
            raise ValueError("weight_decay, kl_factor and contexts must be 0 or more")
        if any(length < 1 for length in self.context_lengths):
            raise ValueError(f"context_lengths must be 1 or more, got {self.context_lengths}")
        if self.key_mode not in ("mean", "original"):
            raise ValueError(f"key_mode {self.key_mode!r}; choose from mean, original")

    def group(self, case: Case) -> str:
        """One edit a case."""
        return case.id

    def plan(self, lm: LanguageModel, cases: Sequence[Case], seed: int) -> Plan:
        """Compute a rank-one update for every case, each on the unedited model."""
        lm.architecture.check_layer(self.layer)
        contexts = self.sampled_contexts(lm, seed)
        edits = {case.id: self.update(lm, case, contexts) for case in cases}
        return Plan(edits, {case.id: case.id for case in cases})

    def sampled_contexts(self, lm: LanguageModel, seed: int) -> list[str]:
        """Texts to put before a prompt: the empty one first, then samples from the model.

        They depend on the model, the seed and the lengths only, and are drawn once for each.
        """
        known = _CONTEXTS.setdefault(lm, {})
        key = (seed, self.contexts, self.context_lengths)
        if key not in known:
            draw = generator(seed, "contexts")
            texts = [
                text
                for length in (self.context_lengths if self.contexts else ())
                for text in lm.sample(self.contexts, length, top_k=5, generator=draw)
            ]
            known[key] = ["", *(" ".join(text.split()) + ". " for text in texts)]
        return known[key]

    def update(self, lm: LanguageModel, case: Case, contexts: Sequence[str]) -> RankOne:
        """The update for one case.

        Args:
            lm: The model, unchanged.
            case: What to change; its edit query needs a subject.
            contexts: Texts to put before the prompt, the empty one first.

        Raises:
            ValueError: If the query has no subject, or the optimisation is not finite.
        """
        probe = edit_probe(case)
        if probe.query.subject is None:
            raise ValueError(f"case {case.id} has no subject; ROME edits at the subject")
        prompts = list(_encoded(lm, probe, contexts))
        keys, bare_value = self._keys(lm, prompts)
        values = lm.architecture.values(self.layer).float()
        bias = lm.architecture.bias(self.layer)
        mean_key = keys.mean(0)
        value = bare_value + self._optimise(lm, case, prompts, bare_value)
        key = mean_key if self.key_mode == "mean" else keys[0]
        u = mean_key / (key @ mean_key)
        v = value - (key @ values + (0 if bias is None else bias.float()))
        if not (torch.isfinite(u).all() and torch.isfinite(v).all()):
            raise ValueError(f"case {case.id}: the rank-one update is not finite")
        return RankOne(self.layer, u.cpu(), v.cpu())

    def _keys(
        self, lm: LanguageModel, prompts: Sequence[Encoded]
    ) -> tuple[Float[Tensor, "contexts d_ff"], Float[Tensor, " d_model"]]:
        """The subject's key in every context, and the MLP's output there in the bare prompt."""
        batch = lm.batch([lm.rows(prompt)[0].ids for prompt in prompts])
        with torch.inference_mode(), recorded(lm, [self.layer]) as seen:
            lm.hidden(batch)
        neurons, outputs = seen[self.layer]
        at = [prompt.subject_last for prompt in prompts]
        keys = neurons[range(len(at)), at].float()
        return keys.clone(), outputs[0, at[0]].float().clone()

    def _optimise(
        self,
        lm: LanguageModel,
        case: Case,
        prompts: Sequence[Encoded],
        bare_value: Float[Tensor, " d_model"],
    ) -> Float[Tensor, " d_model"]:
        """The change of the MLP's output that makes the model answer `new`."""
        loss = _Loss(lm, self, case, prompts)
        delta = torch.zeros_like(bare_value, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=self.learning_rate)
        size = bare_value.norm()
        for step in range(self.steps):
            total = loss(delta) + self.weight_decay * delta.norm() / size**2
            if not torch.isfinite(total):
                raise ValueError(
                    f"case {case.id}: ROME's loss became {total.item()} at step {step}"
                )
            if total < _ENOUGH or step == self.steps - 1:
                break
            (delta.grad,) = torch.autograd.grad(total, [delta])
            adam.step()
            with torch.no_grad():
                delta *= min(1.0, float(self.clamp_norm * size / delta.norm()))
        return delta.detach()


def _encoded(lm: LanguageModel, probe: Probe, contexts: Sequence[str]) -> Iterator[Encoded]:
    """The prompt after each context, without those that do not fit before it."""
    for context in contexts:
        try:
            yield lm.encode(probe.query.after(context), probe.new)
        except UnscorableError:
            # The bare prompt has to fit; a sampled context may be too long or end in half a word.
            if not context:
                raise


class _Loss:
    """mean_j -log P(new | context_j + prompt) + kl_factor * KL(now || before) at the essence.

    As in the published code, -log P is averaged over the target's tokens and the divergence is
    taken from the edited to the unedited distribution.
    """

    def __init__(
        self, lm: LanguageModel, rome: Rome, case: Case, prompts: Sequence[Encoded]
    ) -> None:
        self._lm = lm
        self._layer = rome.layer
        essence = _essence(lm, case) if rome.kl_factor else None
        self._kl_factor = rome.kl_factor if essence is not None else 0.0
        rows: list[Row] = []
        subjects: list[int] = []
        self._weights: list[float] = []
        for prompt in prompts:
            for row in lm.rows(prompt):
                rows.append(row)
                subjects.append(prompt.subject_last)
                n_tokens = len(prompt.target_ids)
                self._weights += [1 / (n_tokens * len(prompts))] * len(row.tokens)
        reads = [
            (i, position, token)
            for i, row in enumerate(rows)
            for position, token in zip(row.positions, row.tokens, strict=True)
        ]
        if essence is not None:
            first = lm.rows(essence)[0]
            rows.append(first)
            subjects.append(essence.subject_last)
            reads.append((len(rows) - 1, first.positions[0], 0))
        self._batch: Batch = lm.batch([row.ids for row in rows])
        self._subjects = subjects
        self._where, self._positions, self._tokens = zip(*reads, strict=True)
        with torch.inference_mode():
            self._before = self._log_probs(None)[-1].clone() if self._kl_factor else None

    def __call__(self, delta: Float[Tensor, " d_model"]) -> Float[Tensor, ""]:
        """The loss at `delta`."""
        log_probs = self._log_probs(delta)
        n = len(self._weights)
        gold = log_probs[range(n), self._tokens[:n]]
        loss = -(gold * gold.new_tensor(self._weights)).sum()
        if self._before is not None:
            now = log_probs[-1]
            loss = loss + self._kl_factor * (now.exp() * (now - self._before)).sum()
        return loss

    def _log_probs(self, delta: Tensor | None) -> Float[Tensor, "reads vocab"]:
        rows = range(len(self._subjects))

        def add(_neurons: Tensor, output: Tensor) -> Tensor:
            assert delta is not None
            changed = output.clone()
            changed[rows, self._subjects] += delta.to(output.dtype)
            return changed

        change: dict[int, Callable[[Tensor, Tensor], Tensor]] = (
            {} if delta is None else {self._layer: add}
        )
        with outputs_replaced(self._lm, change):
            return self._lm.log_probs(self._batch, self._where, self._positions)


def _essence(lm: LanguageModel, case: Case) -> Encoded | None:
    """The essence prompt with something in its slot; None where there is none that fits."""
    if case.essence is None:
        return None
    try:
        return lm.encode(case.essence, lm.tokenizer.mask_token or edit_probe(case).old)
    except UnscorableError:
        return None
