"""One prompt run with a corrupted subject and clean states put back: in stepped or whole rows.

`Restoring.stepped` runs only what a restored state reaches; `Restoring.whole` asks nothing of a
family but where its parts are, and is what the other is tested against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kn_sweeps.cases import Component
from kn_sweeps.models.hooks import Hooks, first_of
from kn_sweeps.models.language_model import InputRow, LanguageModel
from kn_sweeps.models.stepping import Join, Pass, Recording, Span


class Cell(NamedTuple):
    """Something restored: at `position`, in layers `first` to `last`, under one draw of noise.

    Attributes:
        position: Token position in the prompt.
        first: First restored layer.
        last: Last restored layer; before `first` where nothing is.
        sample: Number of the draw.
    """

    position: int
    first: int
    last: int
    sample: int

    def restores(self, layer: int) -> bool:
        """Whether `layer` is among the restored."""
        return self.first <= layer <= self.last


class _Start(NamedTuple):
    """A span of the corrupted run that cells' rows start from.

    Attributes:
        position: Its first position, which is the one that is restored.
        sample: The draw of its noise.
        number: Which of the prompt's rows it is.
        row: That row.
    """

    position: int
    sample: int
    number: int
    row: InputRow

    @property
    def span(self) -> Span:
        """From the restored position to the row's end."""
        ids = self.row.ids
        return Span(ids, self.position, len(ids) - self.position, self.row.positions[0])


class _Branch(NamedTuple):
    """A row of a stepped pass.

    Attributes:
        cell: What is restored in it.
        number: The cell's number.
        span: Number of the span it starts from.
        start: That span.
    """

    cell: Cell
    number: int
    span: int
    start: _Start


class _Place(NamedTuple):
    """Where a clean value belongs: at (row, column) of a batch.

    Attributes:
        row: Row of the batch.
        column: Position in that row of the batch.
        number: Which of the prompt's rows the value is from.
        position: Token position there.
    """

    row: int
    column: int
    number: int
    position: int


class Restoring:
    """One prompt's runs with a corrupted subject.

    Attributes:
        clean_value: Probability of the answer in the clean run.
    """

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[InputRow],
        shift: Float[Tensor, "samples seq d_model"],
    ) -> None:
        """Run the clean prompt.

        Args:
            lm: The model, unchanged.
            rows: The prompt's, which together read its answer.
            shift: By draw of the noise, what it adds to the embeddings.
        """
        self._lm, self._rows, self._shift = lm, rows, shift
        # By layer, (rows, seq, d_model): what was computed, and what MLP outputs were added to.
        self._clean: Mapping[Component, list[Tensor]] = {"state": [], "mlp": [], "attention": []}
        self._sums: list[Tensor] = []
        with Hooks() as hooks:
            for layer in range(lm.architecture.layers):
                lm.architecture.watch_sum(hooks, layer, self._sums.append)
                for component, kept in self._clean.items():
                    hooks.on_output(self._module(component, layer), _keep(kept))
            hidden = lm.hidden(lm.batch([row.ids for row in rows]))
        places = [(n, at) for n, row in enumerate(rows) for at in row.positions]
        self.clean_value = float(self._probabilities(hidden, places, 1))

    def whole(self, component: Component, cells: Sequence[Cell]) -> Float[Tensor, " cells"]:
        """The answer's probability in every cell: whole rows through the whole model."""
        lm = self._lm
        rows = [(cell, n, row) for cell in cells for n, row in enumerate(self._rows)]
        with Hooks() as hooks:
            for layer in range(lm.architecture.layers):
                restored = [
                    _Place(i, cell.position, n, cell.position)
                    for i, (cell, n, _) in enumerate(rows)
                    if cell.restores(layer)
                ]
                self._put_back(hooks, component, layer, restored)
            hooks.enter_context(_shifted(lm, self._shift[[cell.sample for cell, _, _ in rows]]))
            hidden = lm.hidden(lm.batch([row.ids for _, _, row in rows]))
        places = [(i, at) for i, (_, _, row) in enumerate(rows) for at in row.positions]
        return self._probabilities(hidden, places, len(cells))

    def stepped(self, component: Component, cells: Sequence[Cell]) -> Float[Tensor, " cells"]:
        """The same: each cell's rows join behind the layer before the first that is restored.

        Raises:
            CannotStepError: If the family's blocks cannot be stepped.
        """
        lm = self._lm
        pairs = dict.fromkeys((cell.position, cell.sample) for cell in cells)
        starts = [_Start(*pair, n, row) for pair in pairs for n, row in enumerate(self._rows)]
        shift = self._shift[[start.sample for start in starts]]
        with _shifted(lm, shift):
            layers = range(lm.architecture.layers)
            recording = Recording(lm, [start.span for start in starts], layers)
        by_layer = self._branches(component, cells, starts)
        joins = {
            layer: self._join(recording, layer, some, restored=component == "state")
            for layer, some in by_layer.items()
            if layer >= 0
        }
        from_below = by_layer.get(-1, [])
        steps = Pass(lm, recording, joins, [branch.span for branch in from_below])
        order = [branch for some in by_layer.values() for branch in some]
        with Hooks() as hooks:
            if from_below:
                hooks.enter_context(_shifted(lm, steps.at_positions(shift)))
            if component != "state":
                # Without rows from below, the batch has one in front that nobody asked for.
                idle = 0 if from_below else 1
                for layer in layers:
                    restored = self._restored(order, layer, recording.causal, idle)
                    self._put_back(hooks, component, layer, restored)
            hidden = steps.hidden()
        # Sorting is stable: a cell's rows stay in the order of the prompt's.
        by_cell = sorted(enumerate(order), key=lambda one: one[1].number)
        places = [
            (i, at - branch.start.position if recording.causal else 0)
            for i, branch in by_cell
            for at in branch.start.row.positions
        ]
        return self._probabilities(hidden, places, len(cells))

    def _branches(
        self, component: Component, cells: Sequence[Cell], starts: Sequence[_Start]
    ) -> dict[int, list[_Branch]]:
        """Every cell's rows by the layer behind which they join, ascending; -1 is below all."""
        first: dict[tuple[int, int], int] = {}
        for span, start in enumerate(starts):
            first.setdefault((start.position, start.sample), span)
        # A restored state takes the place of its block's output; other rows run the block.
        behind = 0 if component == "state" else -1
        found: dict[int, list[_Branch]] = {}
        for number, cell in enumerate(cells):
            span = first[cell.position, cell.sample]
            found.setdefault(cell.first + behind, []).extend(
                _Branch(cell, number, n, starts[n]) for n in range(span, span + len(self._rows))
            )
        return dict(sorted(found.items()))

    def _join(
        self, recording: Recording, layer: int, branches: Sequence[_Branch], *, restored: bool
    ) -> Join:
        at = [branch.span for branch in branches]
        sums = recording.sums[layer][at]  # a copy: indexed by a list
        if restored:
            numbers = [branch.start.number for branch in branches]
            positions = [branch.start.position for branch in branches]
            sums[:, 0] = self._sums[layer][numbers, positions]
        return Join(torch.tensor(at, device=self._lm.device), sums)

    def _restored(
        self, order: Sequence[_Branch], layer: int, causal: bool, idle: int
    ) -> list[_Place]:
        """Where clean outputs of `layer` belong in a stepped batch."""
        last = self._lm.architecture.layers - 1
        found: list[_Place] = []
        for i, (cell, _, _, start) in enumerate(order):
            if not cell.restores(layer):
                continue
            if not causal and layer == last and start.position != start.row.positions[0]:
                continue  # the last block runs only where it is read
            # A causal LM's row begins with the restored position, and a last block with the read.
            column = 0 if causal or layer == last else start.position
            found.append(_Place(i + idle, column, start.number, start.position))
        return found

    def _put_back(
        self, hooks: Hooks, component: Component, layer: int, places: Sequence[_Place]
    ) -> None:
        """Let `layer` put out what it put out in the clean run, at some places."""
        if not places:
            return
        rows, columns, numbers, positions = (list(each) for each in zip(*places, strict=True))
        values = self._clean[component][layer][numbers, positions]

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            # Changed in a copy: what a module put out may be kept by whoever else looks at it.
            changed = first_of(output).clone()
            changed[rows, columns] = values
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        hooks.on_output(self._module(component, layer), hook)

    def _module(self, component: Component, layer: int) -> nn.Module:
        architecture = self._lm.architecture
        if component == "state":
            return architecture.blocks[layer]
        mlp = component == "mlp"
        return architecture.mlp_output(layer) if mlp else architecture.attention_output(layer)

    def _probabilities(
        self, hidden: Tensor, places: Sequence[tuple[int, int]], cells: int
    ) -> Float[Tensor, " cells"]:
        """The answer's probability, read at places that are those of `cells` copies of the rows."""
        tokens = [token for row in self._rows for token in row.tokens] * cells
        read = hidden[[n for n, _ in places], [at for _, at in places]]
        # Effects are differences of nearly equal probabilities: from here on in double precision,
        # so that no more than the model's own rounding is in them.
        gold = self._lm.predicted(read)[range(len(tokens)), tokens].double()
        return gold.reshape(cells, -1).sum(1).exp().cpu()


def _keep(into: list[Tensor]) -> Any:
    return lambda _module, _args, output: into.append(first_of(output))


@contextmanager
def _shifted(lm: LanguageModel, shift: Float[Tensor, "rows seq d_model"]) -> Iterator[None]:
    """Add to the embeddings of the batches in this block."""
    with Hooks() as hooks:
        hooks.on_output(lm.architecture.embeddings, lambda _module, _args, output: output + shift)
        yield
