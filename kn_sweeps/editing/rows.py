"""The rows of some requests, and two ways to run them with delta added at their subjects.

`Stepped` runs only what delta reaches; `Whole` asks nothing of a family but its MLP's output
projection, and is what the other is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.editing.requests import Request
from kn_sweeps.interventions import outputs_replaced, recorded
from kn_sweeps.models.hooks import Hooks
from kn_sweeps.models.language_model import InputRow, LanguageModel
from kn_sweeps.models.stepping import Join, Pass, Recording, Span


class RequestRows:
    """The rows of some requests, and what is read from them.

    Attributes:
        rows: Contexts and, last of each request, its essence.
        subjects: Where each row's subject ends.
        owners: Which request each row belongs to.
        first: By request, the first row of every context.
        golds: (row, position, token, weight) of every token of the answers.
        essences: (row, position) where every essence's next token is read.
    """

    def __init__(
        self,
        lm: LanguageModel,
        requests: Sequence[Request],
        *,
        essences: Literal["end", "subject"] | None,
    ) -> None:
        """Take them; `essences` says where an essence is read, None that none is."""
        self.rows: list[InputRow] = []
        self.subjects: list[int] = []
        self.owners: list[int] = []
        self.first: list[list[int]] = [[] for _ in requests]
        self.golds: list[tuple[int, int, int, float]] = []
        self.essences: list[tuple[int, int]] = []
        for number, request in enumerate(requests):
            for prompt in request.prompts:
                self.first[number].append(len(self.rows))
                weight = 1 / (len(prompt.target_ids) * len(request.prompts))
                for row in lm.rows(prompt):
                    self._add(row, prompt.subject_last, number)
                    at = len(self.rows) - 1
                    read = zip(row.positions, row.tokens, strict=True)
                    self.golds += [(at, position, token, weight) for position, token in read]
            if essences is not None and request.essence is not None:
                row = lm.rows(request.essence)[0]
                self._add(row, request.essence.subject_last, number)
                subject = request.essence.subject_last
                position = subject if essences == "subject" else row.positions[0]
                self.essences.append((len(self.rows) - 1, position))

    def _add(self, row: InputRow, subject: int, owner: int) -> None:
        self.rows.append(row)
        self.subjects.append(subject)
        self.owners.append(owner)


class Runner(Protocol):
    """Runs rows with delta added at their subjects.

    Attributes:
        keys: Of every row, at its subject.
        outputs: The MLP's, there.
        states: What the MLP's output was added to and gave, there.
    """

    keys: Float[Tensor, "rows d_ff"]
    outputs: Float[Tensor, "rows d_model"]
    states: Float[Tensor, "rows d_model"]

    def before(self, places: Sequence[tuple[int, int]]) -> Float[Tensor, "reads d_model"]:
        """Final hidden states of the unchanged model at (row, position)."""

    def hidden(
        self, rows: Sequence[int], deltas: Tensor, places: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "reads d_model"]:
        """Final hidden states at (row, position) with `deltas[i]` added in row `rows[i]`."""


class Stepped:
    """See `Runner`."""

    def __init__(self, lm: LanguageModel, rows: RequestRows, layer: int) -> None:
        spans = [
            Span(row.ids, at, row.positions[-1] - at + 1, row.positions[0])
            for row, at in zip(rows.rows, rows.subjects, strict=True)
        ]
        for at, position in rows.essences:
            span = spans[at]
            spans[at] = Span(span.ids, span.first, position - span.first + 1, position)
        self._lm, self._layer, self._subjects = lm, layer, rows.subjects
        self._recording = Recording(lm, spans, [layer])
        self.keys = self._recording.neurons[layer][:, 0]
        self.outputs = self._recording.written[layer][:, 0]
        self.states = self._recording.sums[layer][:, 0]

    def before(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """See `Runner`."""
        return self._recording.hidden[[row for row, _ in places], self._columns(places)]

    def hidden(
        self, rows: Sequence[int], deltas: Tensor, places: Sequence[tuple[int, int]]
    ) -> Tensor:
        """See `Runner`."""
        by_size: dict[int, list[int]] = {}
        for n, row in enumerate(rows):
            by_size.setdefault(self._recording.sizes[row], []).append(n)
        # Rows of one size in a pass: most of a short row beside a long one would be padding.
        found: dict[int, Tensor] = {}
        for some in by_size.values():
            spans = torch.tensor([rows[n] for n in some], device=self._lm.device)
            sums = self._recording.sums[self._layer][spans].clone()
            change = deltas[some].to(sums.dtype)
            sums[:, 0] = self._lm.architecture.moved(
                self._layer, sums[:, 0], self.outputs[spans], change
            )
            steps = Pass(self._lm, self._recording, {self._layer: Join(spans, sums)})
            found |= zip((rows[n] for n in some), steps.hidden(), strict=True)
        columns = self._columns(places)
        return torch.stack(
            [found[row][column] for (row, _), column in zip(places, columns, strict=True)]
        )

    def _columns(self, places: Sequence[tuple[int, int]]) -> list[int]:
        if not self._recording.causal:
            return [0] * len(places)
        return [position - self._subjects[row] for row, position in places]


class Whole:
    """See `Runner`: whole rows through the whole model; for blocks that cannot be stepped."""

    def __init__(self, lm: LanguageModel, rows: RequestRows, layer: int) -> None:
        self._lm, self._layer, self._rows = lm, layer, rows
        every = range(len(rows.rows))
        at = (list(every), rows.subjects)
        batch = lm.batch([row.ids for row in rows.rows])
        with torch.no_grad(), recorded(lm, [layer]) as seen, states_seen(lm, layer) as states:
            self._before = lm.hidden(batch)
        self.keys, self.outputs = (x[at] for x in seen[layer])
        self.states = states[0][at]

    def before(self, places: Sequence[tuple[int, int]]) -> Tensor:
        """See `Runner`."""
        return self._before[[row for row, _ in places], [position for _, position in places]]

    def hidden(
        self, rows: Sequence[int], deltas: Tensor, places: Sequence[tuple[int, int]]
    ) -> Tensor:
        """See `Runner`."""
        at = (list(range(len(rows))), [self._rows.subjects[row] for row in rows])

        def add(_neurons: Tensor, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[at] += deltas.to(output.dtype)
            return changed

        change: dict[int, Callable[[Tensor, Tensor], Tensor]] = {self._layer: add}
        with outputs_replaced(self._lm, change):
            final = self._lm.hidden(self._lm.batch([self._rows.rows[row].ids for row in rows]))
        number = {row: n for n, row in enumerate(rows)}
        return final[[number[row] for row, _ in places], [position for _, position in places]]


@contextmanager
def states_seen(lm: LanguageModel, layer: int) -> Iterator[list[Tensor]]:
    """Collect what `layer`'s MLP output was added to and gave."""
    states: list[Tensor] = []

    with Hooks() as hooks:
        lm.architecture.watch_sum(hooks, layer, states.append)
        yield states
