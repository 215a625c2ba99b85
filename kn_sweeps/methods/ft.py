"""Constrained fine-tuning (Zhu et al. 2020): train one MLP projection on the new answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from kn_sweeps.cases import Case
from kn_sweeps.editing.descent import descend
from kn_sweeps.editing.requests import Request, requests_of
from kn_sweeps.edits import Dense, Edit, Joint, State
from kn_sweeps.interventions import outputs_replaced
from kn_sweeps.methods.base import Method
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counted

_ENOUGH = 1e-2


@dataclass(frozen=True)
class FineTuning(Method):
    """Train the MLP's output projection at `layer` until the model answers `new`.

        minimise -log P(new | prompt) by Adam,   |W' - W|_inf <= norm_constraint

    The loss is averaged over the target's tokens; training ends where it is below 0.01.

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
        lm.architecture.check_layer(self.layer)
        requests, failed = requests_of(
            lm, cases, [""], subject=False, essence=False, ended=self.end_of_answer
        )
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

        def constrain(owners: Sequence[int]) -> None:
            if self.norm_constraint is not None:
                with torch.no_grad():
                    for owner in owners:
                        changes[owner].clamp_(-self.norm_constraint, self.norm_constraint)

        diverged = descend(
            changes,
            partial(batch.losses, changes),
            constrain,
            steps=self.steps,
            learning_rate=self.learning_rate,
            enough=_ENOUGH,
            told="training step",
        )
        failed = {
            request.case: f"case {request.case}: {diverged[owner]}"
            for owner, request in zip(owners, requests, strict=True)
            if owner in diverged
        }
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

    def losses(self, changes: Sequence[Tensor], going: Sequence[int]) -> Float[Tensor, " going"]:
        """Mean -log P of the answers of some owners; all are read, so that batches stay alike."""

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
        every = zeros.index_add(0, torch.tensor(self._of, device=zeros.device), terms)
        return every[list(going)]
