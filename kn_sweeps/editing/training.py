"""Training a change of MLP output projections on answers, of many edits side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.cases import Case
from kn_sweeps.editing.descent import descend
from kn_sweeps.editing.requests import Request, requests_of
from kn_sweeps.edits import Dense, Edit, Joint
from kn_sweeps.interventions import outputs_replaced
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Shape, Work
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.plans import Plan
from kn_sweeps.progress.counting import counted
from kn_sweeps.seeding import shuffler


def training_needs(
    shape: Shape, work: Work, size: int, *, numbers: int, layers: int, first: int, kept: int
) -> Needs:
    """What training changes of some edits side by side needs.

    Each has its variable, that one's gradient and Adam's two moments.

    Args:
        shape: Of the model.
        work: What is edited.
        size: Edits trained side by side at most.
        numbers: Of a variable.
        layers: How many layers are changed.
        first: The lowest of them.
        kept: Bytes of a trained edit.
    """
    edits = min(size, work.cases)
    rows = shape.kept(edits, work.tokens, 0, shape.layers - first) + shape.logits(edits, 3)
    wide = max(4, shape.number)
    read = 0 if wide == shape.number else layers * edits * work.tokens * shape.d_ff * wide
    return Needs(activations=4 * edits * numbers * wide + rows + read, edits=work.cases * kept)


def weights_needs(shape: Shape, work: Work, size: int, layer: int) -> Needs:
    """What `Training.of_weights` needs: four matrices an edit, and one until it is scored."""
    numbers = shape.d_ff * shape.d_model
    return training_needs(
        shape, work, size, numbers=numbers, layers=1, first=layer, kept=4 * numbers
    )


T = TypeVar("T")
_ENOUGH = 1e-2
"""Where a loss is low enough, in nats a token."""
Adds = Mapping[int, Callable[[Tensor, Tensor], Tensor]]
"""By layer, what a trained variable adds to the MLP's output, given it and the neurons."""


@dataclass(frozen=True)
class Training:
    """How changes are trained to give new answers: by Adam, mini-batch by mini-batch.

        minimise the mean over a mini-batch of -log P(new | prompt) / (tokens of new)

    A mini-batch whose loss is below 0.01 is passed over, and training ends with the epoch
    whose mean loss is below it.

    Attributes:
        adds: By layer, what a variable adds to the MLP's output, given it and the neurons.
        start: An edit's variable before the first step, by the edit's case.
        edit: The edit that a trained variable is.
        epochs: Times that every answer is read at most.
        learning_rate: Adam's.
        ended: Whether answers have the token that ends a text.
        side_by_side: Edits trained at once where each is trained alone; bounds memory.
        batch_size: Cases of a mini-batch where one change is trained on many, in an order drawn
            anew for every epoch; None for all of them at once.
        constrain: Is called with a variable behind each of its steps.
    """

    adds: Adds
    start: Callable[[str], Tensor]
    edit: Callable[[Tensor], Edit]
    epochs: int
    learning_rate: float
    ended: bool
    side_by_side: int
    batch_size: int | None = None
    constrain: Callable[[Tensor], None] = lambda _: None

    @classmethod
    def of_weights(cls, lm: LanguageModel, layer: int, **how: Any) -> Training:
        """Of all weights of one output projection; `how` is what else there is to say."""
        lm.architecture.check_layer(layer)
        shape = (lm.architecture.d_ff, lm.architecture.d_model)
        wide = torch.promote_types(lm.model.dtype, torch.float32)
        return cls(
            adds={layer: lambda change, neurons: neurons @ change},
            start=lambda _: torch.zeros(shape, dtype=wide, device=lm.device),
            edit=lambda change: Dense(layer, change.float().cpu()),
            **how,
        )

    def plan(self, lm: LanguageModel, cases: Sequence[Case], seed: int, *, together: bool) -> Plan:
        """Train a change for every case, or one for all of them."""
        requests, failed = requests_of(
            lm, cases, [""], subject=False, essence=False, ended=self.ended
        )
        edits: dict[str, Edit] = {}
        size = len(requests) if together else lm.fitting(self.side_by_side)
        for start in counted(range(0, len(requests), size or 1), "batch of edits"):
            some = requests[start : start + size]
            owners = [0] * len(some) if together else list(range(len(some)))
            trained, diverged = self._trained(lm, some, owners, seed)
            for n, request in enumerate(some):
                owner = owners[n]
                if owner in diverged:
                    failed[request.case] = f"case {request.case}: {diverged[owner]}"
                else:
                    # What was trained for a whole batch is the first one's; others add nothing.
                    own = not together or n == 0
                    edits[request.case] = self.edit(trained[owner]) if own else Joint(())
        return Plan(edits, {case: case for case in edits}, failed=failed)

    def _trained(
        self, lm: LanguageModel, requests: Sequence[Request], owners: Sequence[int], seed: int
    ) -> tuple[list[Tensor], dict[int, str]]:
        """Train a variable for each owner, on the requests it owns; and which diverged, and how."""
        first = {owner: owners.index(owner) for owner in sorted(set(owners))}
        variables = [self.start(requests[n].case).requires_grad_() for n in first.values()]
        size = len(requests) if len(first) > 1 or self.batch_size is None else self.batch_size
        shares = [len(some) / len(requests) for some in _cut(requests, size)]
        batches = self._batches(lm, requests, owners, size, seed)

        def losses(going: Sequence[int]) -> Float[Tensor, " going"]:
            return next(batches).losses(self.adds, variables)[list(going)]

        def constrain(moved: Sequence[int]) -> None:
            with torch.no_grad():
                for owner in moved:
                    self.constrain(variables[owner])

        diverged = descend(
            variables,
            losses,
            constrain,
            steps=self.epochs * len(shares),
            learning_rate=self.learning_rate,
            enough=_ENOUGH,
            told="training step",
            shares=shares,
        )
        return [variable.detach() for variable in variables], diverged

    def _batches(
        self,
        lm: LanguageModel,
        requests: Sequence[Request],
        owners: Sequence[int],
        size: int,
        seed: int,
    ) -> Iterator[_Answers]:
        """The answers of every step."""
        if size >= len(requests):
            every = _Answers(lm, requests, owners)
            while True:
                yield every
        draw = shuffler(seed, "epochs", *(request.case for request in requests))
        while True:
            order = draw.sample(range(len(requests)), len(requests))
            for some in _cut(order, size):
                yield _Answers(lm, [requests[n] for n in some], [owners[n] for n in some])


def _cut(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


class _Answers:
    """The rows that read some answers, each under its owner's change."""

    def __init__(
        self, lm: LanguageModel, requests: Sequence[Request], owners: Sequence[int]
    ) -> None:
        self._lm = lm
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

    def losses(self, adds: Adds, variables: Sequence[Tensor]) -> Float[Tensor, " owners"]:
        """Mean -log P of each owner's answers; all are read, so that batches stay alike."""
        hooks = {layer: self._hook(add, variables) for layer, add in adds.items()}
        with outputs_replaced(self._lm, hooks):
            hidden = self._lm.hidden(self._batch)[list(self._at), list(self._positions)]
        log_probs = self._lm.predicted(hidden)
        gold = log_probs[range(len(self._tokens)), list(self._tokens)]
        terms = -gold * gold.new_tensor(self._weights)
        zeros = terms.new_zeros(len(variables))
        return zeros.index_add(0, torch.tensor(self._of, device=zeros.device), terms)

    def _hook(
        self, add: Callable[[Tensor, Tensor], Tensor], variables: Sequence[Tensor]
    ) -> Callable[[Tensor, Tensor], Tensor]:
        def change(neurons: Tensor, output: Tensor) -> Tensor:
            changed = output.clone()
            for owner, variable in enumerate(variables):
                own = torch.nonzero(self._owners == owner)[:, 0]
                added = add(variable, at_least_float32(neurons[own]))
                changed = changed.index_add(0, own, added.to(output.dtype))
            return changed

        return change
