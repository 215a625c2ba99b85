"""Causal tracing: which states, restored in a run with a corrupted subject, bring the answer back.

A prompt is run with noise on its subject's embeddings; then states of the clean run are put back at
one position, in one layer or a window of layers, and the answer's probability is read. What it is
above that of the corrupted run is the place's indirect effect.

Every cell (position, layer) and draw of the noise is a row that joins the corrupted run's batch at
its first restored layer, so that neither the layers below nor, in a causal LM, the positions before
are computed again (`stepping`). A family whose blocks cannot be stepped runs whole rows.

Source: Meng et al. (2022), *Locating and Editing Factual Associations in GPT*, section 2.
Deviation: the probability is that of the whole answer, not of its first token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kn_sweeps.cases import COMPONENTS, Component
from kn_sweeps.models.hooks import Hooks, first_of
from kn_sweeps.models.language_model import LanguageModel, Row
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.stepping import CannotStepError, Join, Pass, Recording, Span
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted
from kn_sweeps.seeding import generator


@dataclass(frozen=True)
class Trace:
    """One prompt's causal trace.

    Attributes:
        clean: Probability of the answer.
        corrupted: The same with a corrupted subject, averaged over draws of the noise.
        effects: By component, how much restoring it at a position and layer adds to `corrupted`,
            averaged likewise. Positions are those of the prompt's tokens; before a causal LM's
            subject nothing is corrupted, so that nothing can be restored.
    """

    clean: float
    corrupted: float
    effects: Mapping[Component, Float[Tensor, "positions layers"]]


def trace(
    lm: LanguageModel,
    prompt: Encoded,
    *,
    noise: float,
    seed: int,
    samples: int = 10,
    components: Sequence[Component] = COMPONENTS,
    window: int = 10,
    max_rows: int = 512,
) -> Trace:
    """Trace one prompt.

    Args:
        lm: The model, unchanged.
        prompt: A prompt with a subject, and the answer.
        noise: Standard deviation of the noise; 3 times that of subjects' embeddings, usually.
        seed: The noise is drawn from it and the prompt.
        samples: Draws of the noise.
        components: What is restored: the residual stream behind a block (`state`, one layer), or
            what MLPs or attentions put out in a window of layers.
        window: Layers restored together for `mlp` and `attention`, around the one named.
        max_rows: Rows in one pass; bounds memory.

    Raises:
        ValueError: If the prompt has no subject, or a number cannot be meant.
    """
    if prompt.subject is None:
        raise ValueError("causal tracing corrupts the subject, and the query has none")
    if samples < 1 or window < 1 or max_rows < 1 or not noise >= 0:
        raise ValueError(
            "samples, window and max_rows must be at least 1 and noise at least 0; got "
            f"{samples}, {window}, {max_rows} and {noise}"
        )
    with torch.no_grad():
        return _Tracing(lm, prompt, noise, seed, samples, window, lm.fitting(max_rows)).run(
            components
        )


def subject_noise(
    prompt: Encoded, d_model: int, *, noise: float, seed: int, samples: int
) -> Float[Tensor, "samples tokens d_model"]:
    """The noise on a prompt's subject: the same whatever else is traced."""
    assert prompt.subject is not None
    start, stop = prompt.subject
    draw = generator(seed, "causal tracing", *prompt.ids)
    return noise * torch.randn(samples, stop - start, d_model, generator=draw, dtype=torch.float64)


def subject_spread(lm: LanguageModel, prompts: Sequence[Encoded]) -> float:
    """Standard deviation of the embeddings of the subjects' tokens, all coordinates together.

    Raises:
        ValueError: If no prompt has a subject.
    """
    ids = [token for one in prompts if one.subject for token in one.ids[slice(*one.subject)]]
    if not ids:
        raise ValueError("no prompt has a subject")
    weight = lm.architecture.embeddings.weight
    assert isinstance(weight, Tensor)
    return float(at_least_float32(weight[ids]).std())


class _Cell(NamedTuple):
    """Something restored: at `position`, in layers `first` to `last`, under one draw of noise."""

    position: int
    first: int
    last: int
    sample: int


class _Clean(NamedTuple):
    """The clean run, by layer, (rows, seq, d_model)."""

    state: list[Tensor]
    sums: list[Tensor]
    mlp: list[Tensor]
    attention: list[Tensor]


class _Tracing:
    """One prompt's cells; see `trace`."""

    def __init__(
        self,
        lm: LanguageModel,
        prompt: Encoded,
        noise: float,
        seed: int,
        samples: int,
        window: int,
        max_rows: int,
    ) -> None:
        self._lm, self._samples, self._window, self._max_rows = lm, samples, window, max_rows
        self._rows = lm.rows(prompt)
        assert prompt.subject is not None
        start, stop = prompt.subject
        causal = lm.kind == "causal"
        self._length = len(prompt.prompt_ids) if causal else len(prompt.ids)
        self._positions = range(start if causal else 0, self._length)
        seq, d_model = len(self._rows[0].ids), lm.architecture.d_model
        shift = torch.zeros(samples, seq, d_model, dtype=torch.float64)
        shift[:, start:stop] = subject_noise(
            prompt, d_model, noise=noise, seed=seed, samples=samples
        )
        self._shift = shift.to(lm.device, lm.model.dtype)
        self._clean, self._clean_value = self._run_clean()

    def run(self, components: Sequence[Component]) -> Trace:
        """Every cell."""
        unrestored = [_Cell(0, 0, -1, sample) for sample in range(self._samples)]
        corrupted = float(self._whole("mlp", unrestored).mean())
        effects: dict[Component, Tensor] = {}
        layers = self._lm.architecture.layers
        for component in counted(components, "component"):
            cells = [
                _Cell(position, *self._range(component, layer), sample)
                for position in self._positions
                for sample in range(self._samples)
                for layer in range(layers)
            ]
            found = torch.cat([self._values(component, some) for some in self._chunks(cells)])
            by_cell = found.reshape(len(self._positions), self._samples, layers).mean(1)
            effects[component] = torch.zeros(self._length, layers, dtype=by_cell.dtype)
            effects[component][self._positions] = by_cell - corrupted
        return Trace(self._clean_value, corrupted, effects)

    def _range(self, component: Component, layer: int) -> tuple[int, int]:
        if component == "state":
            return layer, layer
        first = max(0, layer - self._window // 2)
        last = min(self._lm.architecture.layers, layer + (self._window + 1) // 2) - 1
        return first, last

    def _chunks(self, cells: Sequence[_Cell]) -> Iterator[Sequence[_Cell]]:
        """Cells of whole (position, sample) pairs, as many as fit."""
        layers = self._lm.architecture.layers
        pairs = max(1, self._max_rows // (layers * len(self._rows)))
        for start in counted(range(0, len(cells), pairs * layers), "batch of states"):
            yield cells[start : start + pairs * layers]

    def _values(self, component: Component, cells: Sequence[_Cell]) -> Float[Tensor, " cells"]:
        try:
            return self._stepped(component, cells)
        except CannotStepError:
            size = max(1, self._max_rows // len(self._rows))
            parts = [cells[start : start + size] for start in range(0, len(cells), size)]
            return torch.cat([self._whole(component, part) for part in parts])

    def _run_clean(self) -> tuple[_Clean, float]:
        architecture = self._lm.architecture
        clean = _Clean([], [], [], [])
        with Hooks() as hooks:

            def keep(into: list[Tensor]) -> Callable[..., None]:
                return lambda _module, _args, output: into.append(first_of(output))

            for layer, block in enumerate(architecture.blocks):
                architecture.watch_sum(hooks, layer, clean.sums.append)
                hooks.on_output(block, keep(clean.state))
                hooks.on_output(architecture.mlp_output(layer), keep(clean.mlp))
                hooks.on_output(architecture.attention_output(layer), keep(clean.attention))
            hidden = self._lm.hidden(self._lm.batch([row.ids for row in self._rows]))
        places = [(n, at) for n, row in enumerate(self._rows) for at in row.positions]
        return clean, float(self._probabilities(hidden, places, 1))

    def _probabilities(
        self, hidden: Tensor, places: Sequence[tuple[int, int]], cells: int
    ) -> Float[Tensor, " cells"]:
        """The answer's probability, read at places that are those of `cells` copies of the rows."""
        tokens = [token for row in self._rows for token in row.tokens] * cells
        read = hidden[[n for n, _ in places], [at for _, at in places]]
        gold = self._lm.predicted(read)[range(len(tokens)), tokens].double()
        return gold.reshape(cells, -1).sum(1).exp().cpu()

    def _whole(self, component: Component, cells: Sequence[_Cell]) -> Float[Tensor, " cells"]:
        """Whole rows through the whole model."""
        lm, clean = self._lm, self._clean
        rows = [(cell, n, row) for cell in cells for n, row in enumerate(self._rows)]
        restored = {"state": clean.state, "mlp": clean.mlp, "attention": clean.attention}[component]

        def put_back(layer: int) -> Callable[..., Any]:
            at = [i for i, (cell, _, _) in enumerate(rows) if cell.first <= layer <= cell.last]
            positions = [rows[i][0].position for i in at]
            values = restored[layer][[rows[i][1] for i in at], positions]

            def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
                changed = first_of(output).clone()
                changed[at, positions] = values
                return changed if isinstance(output, Tensor) else (changed, *output[1:])

            return hook

        with Hooks() as hooks:
            for layer in range(lm.architecture.layers):
                hooks.on_output(self._module(component, layer), put_back(layer))
            hooks.enter_context(_shifted(lm, self._shift[[cell.sample for cell, _, _ in rows]]))
            hidden = lm.hidden(lm.batch([row.ids for _, _, row in rows]))
        places = [(i, at) for i, (_, _, row) in enumerate(rows) for at in row.positions]
        return self._probabilities(hidden, places, len(cells))

    def _module(self, component: Component, layer: int) -> nn.Module:
        architecture = self._lm.architecture
        if component == "state":
            return architecture.blocks[layer]
        mlp = component == "mlp"
        return architecture.mlp_output(layer) if mlp else architecture.attention_output(layer)

    def _stepped(self, component: Component, cells: Sequence[_Cell]) -> Float[Tensor, " cells"]:
        """Each cell's rows join behind the layer before the first that is restored."""
        lm = self._lm
        pairs = list(dict.fromkeys((cell.position, cell.sample) for cell in cells))
        spans = [
            (position, sample, n, row)
            for position, sample in pairs
            for n, row in enumerate(self._rows)
        ]
        shift = self._shift[[sample for _, sample, _, _ in spans]]
        with _shifted(lm, shift):
            recording = Recording(
                lm,
                [_span(row, position) for position, _, _, row in spans],
                range(lm.architecture.layers),
            )
        number = {pair: n * len(self._rows) for n, pair in enumerate(pairs)}
        # A restored state takes the place of its block's output; other rows run the block.
        behind = 0 if component == "state" else -1
        members: dict[int, list[tuple[int, int]]] = {}
        for index, cell in enumerate(cells):
            first = number[cell.position, cell.sample]
            rows = [(index, first + n) for n in range(len(self._rows))]
            members.setdefault(cell.first + behind, []).extend(rows)
        joins = {
            layer: self._join(recording, spans, layer, rows, restored=component == "state")
            for layer, rows in sorted(members.items())
            if layer >= 0
        }
        start = members.get(-1, [])
        steps = Pass(lm, recording, joins, [span for _, span in start])
        order = [row for _, rows in sorted(members.items()) for row in rows]
        with Hooks() as hooks:
            if start:
                hooks.enter_context(_shifted(lm, steps.at_positions(shift)))
            if component != "state":
                idle = 0 if start else 1
                for layer in range(lm.architecture.layers):
                    hook = self._put_back(component, layer, cells, spans, order, idle)
                    hooks.on_output(self._module(component, layer), hook)
            hidden = steps.hidden()
        where: dict[int, list[tuple[int, int]]] = {index: [] for index in range(len(cells))}
        for i, (index, span) in enumerate(order):
            position, _, _, row = spans[span]
            columns = [at - position for at in row.positions] if recording.causal else [0]
            where[index] += [(i, column) for column in columns]
        places = [place for index in range(len(cells)) for place in where[index]]
        return self._probabilities(hidden, places, len(cells))

    def _join(
        self,
        recording: Recording,
        spans: Sequence[tuple[int, int, int, Row]],
        layer: int,
        rows: Sequence[tuple[int, int]],
        *,
        restored: bool,
    ) -> Join:
        at = [span for _, span in rows]
        sums = recording.sums[layer][at]
        if restored:
            clean = self._clean.sums[layer]
            sums[:, 0] = clean[[spans[span][2] for span in at], [spans[span][0] for span in at]]
        return Join(torch.tensor(at, device=self._lm.device), sums)

    def _put_back(
        self,
        component: Component,
        layer: int,
        cells: Sequence[_Cell],
        spans: Sequence[tuple[int, int, int, Row]],
        order: Sequence[tuple[int, int]],
        idle: int,
    ) -> Callable[..., Any]:
        """Give the rows whose window has `layer` the clean output at their position."""
        clean = (self._clean.mlp if component == "mlp" else self._clean.attention)[layer]
        causal, last = self._lm.kind == "causal", self._lm.architecture.layers - 1
        at: list[int] = []
        slots: list[int] = []
        sources: list[tuple[int, int]] = []
        for i, (index, span) in enumerate(order):
            position, _, n, row = spans[span]
            if not cells[index].first <= layer <= cells[index].last:
                continue
            if not causal and layer == last and position != row.positions[0]:
                continue  # the last block runs only where it is read
            at.append(i + idle)
            slots.append(0 if causal or layer == last else position)
            sources.append((n, position))
        values = clean[[n for n, _ in sources], [position for _, position in sources]]

        def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[at, slots] = values
            return changed

        return hook


def _span(row: Row, position: int) -> Span:
    return Span(row.ids, position, len(row.ids) - position, row.positions[0])


@contextmanager
def _shifted(lm: LanguageModel, shift: Float[Tensor, "rows seq d_model"]) -> Iterator[None]:
    """Add to the embeddings of the batches in this block."""
    with Hooks() as hooks:
        hooks.on_output(lm.architecture.embeddings, lambda _module, _args, output: output + shift)
        yield
