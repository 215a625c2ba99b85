"""Causal tracing: which states, restored in a run with a corrupted subject, bring the answer back.

A prompt is run with noise on its subject's embeddings; then states of the clean run are put back at
one position, in one layer or a window of layers, and the answer's probability is read. What it is
above that of the corrupted run is the place's indirect effect.

Every cell (position, layer) and draw of the noise is a row that joins the corrupted run's batch at
its first restored layer, so that neither the layers below nor, in a causal LM, the positions before
are computed again (`restoring`). A family whose blocks cannot be stepped runs whole rows.

Source: Meng et al. (2022), *Locating and Editing Factual Associations in GPT*, section 2.
Deviation: the probability is that of the whole answer, not of its first token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.attribution.restoring import Cell, Restoring
from kn_sweeps.cases import COMPONENTS, Component
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.stepping import CannotStepError
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
        rows = lm.fitting(max_rows, lm.shape.scoring(1, len(prompt.ids)))
        return _Tracing(lm, prompt, noise, seed, samples, window, rows).run(components)


def subject_noise(
    prompt: Encoded, d_model: int, *, noise: float, seed: int, samples: int
) -> Float[Tensor, "samples tokens d_model"]:
    """The noise on a prompt's subject: the same whatever else is traced."""
    assert prompt.subject is not None
    start, stop = prompt.subject
    draw = generator(seed, "causal tracing", *prompt.ids)
    # Drawn in double precision whatever the model's is: a model has the same noise in every dtype.
    return noise * torch.randn(samples, stop - start, d_model, generator=draw, dtype=torch.float64)


def subject_spread(lm: LanguageModel, prompts: Sequence[Encoded]) -> float:
    """Standard deviation of the embeddings of the subjects' tokens, all coordinates together.

    Raises:
        ValueError: If no prompt has a subject.
    """
    ids = [token for one in prompts if one.subject for token in one.ids[slice(*one.subject)]]
    if not ids:
        raise ValueError("no prompt has a subject")
    # As the model has them: some families scale what is in the weight.
    read = lm.architecture.embeddings(torch.tensor(ids, device=lm.device))
    return float(at_least_float32(read).std())


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
        self._samples, self._window, self._max_rows = samples, window, max_rows
        self._layers = lm.architecture.layers
        assert prompt.subject is not None
        start, stop = prompt.subject
        rows, width = lm.rows(prompt), lm.architecture.d_embedding
        causal = lm.kind == "causal"
        self._length = len(prompt.prompt_ids) if causal else len(prompt.ids)
        # A causal LM's states before the subject are clean in the corrupted run as well.
        self._positions = range(start if causal else 0, self._length)
        shift = torch.zeros(samples, len(rows[0].ids), width, dtype=torch.float64)
        shift[:, start:stop] = subject_noise(prompt, width, noise=noise, seed=seed, samples=samples)
        self._rows = len(rows)
        self._restoring = Restoring(lm, rows, shift.to(lm.device, lm.model.dtype))

    def run(self, components: Sequence[Component]) -> Trace:
        """Every cell."""
        unrestored = [Cell(0, 0, -1, sample) for sample in range(self._samples)]
        corrupted = float(self._restoring.whole("mlp", unrestored).mean())
        effects: dict[Component, Tensor] = {}
        for component in counted(components, "component"):
            cells = [
                Cell(position, *self._range(component, layer), sample)
                for position in self._positions
                for sample in range(self._samples)
                for layer in range(self._layers)
            ]
            found = torch.cat([self._values(component, some) for some in self._chunks(cells)])
            by_cell = found.reshape(len(self._positions), self._samples, self._layers).mean(1)
            effects[component] = torch.zeros(self._length, self._layers, dtype=by_cell.dtype)
            effects[component][self._positions] = by_cell - corrupted
        return Trace(self._restoring.clean_value, corrupted, effects)

    def _range(self, component: Component, layer: int) -> tuple[int, int]:
        """The first and the last layer that are restored together around `layer`."""
        if component == "state":
            # What is restored behind a block leaves nothing to restore in those below it.
            return layer, layer
        first = max(0, layer - self._window // 2)
        last = min(self._layers, layer + (self._window + 1) // 2) - 1
        return first, last

    def _chunks(self, cells: Sequence[Cell]) -> Iterator[Sequence[Cell]]:
        """Cells of whole (position, sample) pairs, as many as fit."""
        pairs = max(1, self._max_rows // (self._layers * self._rows))
        for start in counted(range(0, len(cells), pairs * self._layers), "batch of states"):
            yield cells[start : start + pairs * self._layers]

    def _values(self, component: Component, cells: Sequence[Cell]) -> Float[Tensor, " cells"]:
        try:
            return self._restoring.stepped(component, cells)
        except CannotStepError:
            size = max(1, self._max_rows // self._rows)
            parts = [cells[start : start + size] for start in range(0, len(cells), size)]
            return torch.cat([self._restoring.whole(component, part) for part in parts])
