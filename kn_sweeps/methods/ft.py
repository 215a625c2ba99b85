"""Constrained fine-tuning (Zhu et al. 2020): train one MLP projection on the new answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.cases import Case, Intent
from kn_sweeps.editing.requests import Request, requests_of
from kn_sweeps.edits import Dense, Edit, Joint
from kn_sweeps.interventions import outputs_replaced
from kn_sweeps.methods.base import Plan
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.progress.counting import counted

_ENOUGH = 1e-2


@dataclass(frozen=True)
class FineTuning:
    """Train the MLP's output projection at `layer` until the model answers `new`.

        minimise -log P(new | prompt) by Adam,   |W' - W|_inf <= norm_constraint

    The loss is averaged over the target's tokens; training ends where it is below 0.01.

    Attributes:
        layer: Layer whose MLP output projection is trained, from 0.
        steps: Adam steps.
        learning_rate: Adam's.
        norm_constraint: Largest change of a single weight; null for none.
        max_edits: Edits trained side by side; bounds memory (each takes four matrices).

    Source: Zhu et al. (2020), *Modifying Memories in Transformer Models*; hyper-parameters and
    stopping as in Meng et al. (2022)'s baseline FT+L. Deviation: all of a target's tokens are
    trained on, not only the first after the prompt.
    """

    layer: int
    steps: int = 25
    learning_rate: float = 5e-4
    norm_constraint: float | None = 2e-4
    max_edits: int = 8

    intent: ClassVar[Intent] = "replace"
    changes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse values that cannot be meant."""
        for name in ("steps", "learning_rate", "norm_constraint", "max_edits"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")

    def group(self, case: Case) -> str:
        """One edit a case."""
        return case.id

    def prepare(self, lm: LanguageModel, seed: int) -> None:
        """Nothing."""

    def plan(
        self,
        lm: LanguageModel,
        cases: Sequence[Case],
        seed: int,  # noqa: ARG002
        *,
        together: bool = False,
    ) -> Plan:
        """Train a change for every case, or one for all of them."""
        lm.architecture.check_layer(self.layer)
        requests, failed = requests_of(lm, cases, [""], subject=False)
        edits: dict[str, Edit] = {}
        size = len(requests) if together else lm.fitting(self.max_edits)
        for start in counted(range(0, len(requests), size or 1), "batch of edits"):
            some = requests[start : start + size]
            owners = [0] * len(some) if together else list(range(len(some)))
            trained, messages = self._trained(lm, some, owners)
            failed |= messages
            for n, request in enumerate(some):
                if request.case not in messages:
                    # What was trained for a whole batch is the first one's; others add nothing.
                    first = not together or n == 0
                    change = trained[owners[n]].float().cpu()
                    edits[request.case] = Dense(self.layer, change) if first else Joint(())
        return Plan(edits, {case: case for case in edits}, failed=failed)

    def _trained(
        self, lm: LanguageModel, requests: Sequence[Request], owners: Sequence[int]
    ) -> tuple[list[Float[Tensor, "d_ff d_model"]], dict[str, str]]:
        """Train one change for each owner, on the rows of the requests it owns."""
        batch = _Rows(lm, requests, owners, self.layer)
        shape = (lm.architecture.d_ff, lm.architecture.d_model)
        wide = torch.promote_types(lm.model.dtype, torch.float32)
        changes = [
            torch.zeros(shape, dtype=wide, device=lm.device, requires_grad=True)
            for _ in sorted(set(owners))
        ]
        adam = torch.optim.Adam(changes, lr=self.learning_rate)
        failed: dict[str, str] = {}
        going = list(range(len(changes)))
        for step in counted(range(self.steps), "training step"):
            losses = batch.losses(changes)
            stay = []
            for owner in going:
                loss = losses[owner].item()
                if not math.isfinite(loss):
                    for n, request in enumerate(requests):
                        if owners[n] == owner:
                            message = f"the loss became {loss} at step {step}"
                            failed[request.case] = f"case {request.case}: {message}"
                elif loss >= _ENOUGH:
                    stay.append(owner)
            if not stay:
                break
            going = stay
            gradients = torch.autograd.grad(losses[stay].sum(), [changes[n] for n in stay])
            adam.zero_grad()  # what has stopped has no gradient, and Adam leaves it alone
            for owner, gradient in zip(stay, gradients, strict=True):
                changes[owner].grad = gradient
            adam.step()
            if self.norm_constraint is not None:
                with torch.no_grad():
                    for change in changes:
                        change.clamp_(-self.norm_constraint, self.norm_constraint)
        return [change.detach() for change in changes], failed


class _Rows:
    """The rows that read the answers, each under its owner's change."""

    def __init__(
        self, lm: LanguageModel, requests: Sequence[Request], owners: Sequence[int], layer: int
    ) -> None:
        self._lm, self._layer = lm, layer
        rows = [
            (owner, row, len(request.prompts[0].target_ids))
            for owner, request in zip(owners, requests, strict=True)
            for row in lm.rows(request.prompts[0])
        ]
        self._batch = lm.batch([row.ids for _, row, _ in rows])
        self._owners = torch.tensor([owner for owner, _, _ in rows], device=lm.device)
        reads = [
            (n, position, token, owner, 1 / (size * list(owners).count(owner)))
            for n, (owner, row, size) in enumerate(rows)
            for position, token in zip(row.positions, row.tokens, strict=True)
        ]
        self._at, self._positions, self._tokens, self._of, self._weights = zip(*reads, strict=True)

    def losses(self, changes: Sequence[Tensor]) -> Float[Tensor, " owners"]:
        """Mean -log P of every owner's answers."""

        def add(neurons: Tensor, output: Tensor) -> Tensor:
            changed = output.clone()
            for owner, change in enumerate(changes):
                own = torch.nonzero(self._owners == owner)[:, 0]
                added = at_least_float32(neurons[own]) @ change
                changed = changed.index_add(0, own, added.to(output.dtype))
            return changed

        hook: dict[int, Callable[[Tensor, Tensor], Tensor]] = {self._layer: add}
        with outputs_replaced(self._lm, hook):
            hidden = self._lm.hidden(self._batch)[list(self._at), list(self._positions)]
        log_probs = self._lm.predicted(hidden)
        gold = log_probs[range(len(self._tokens)), list(self._tokens)]
        terms = -gold * gold.new_tensor(self._weights)
        zeros = terms.new_zeros(len(changes))
        return zeros.index_add(0, torch.tensor(self._of, device=zeros.device), terms)
