"""What becomes of a target where its best neurons are at 0, and where all but those are.

All prompts, rankings, sizes and both curves are cells that share batches. Neurons are at 0 where a
token of the target is predicted, which is where they were attributed to: so in a causal LM a cell
is no more than those positions, run behind the recorded keys and values of those before them.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kn_sweeps.attribution.integrand import LOGITS, Readings
from kn_sweeps.attribution.integrated_gradients import groups
from kn_sweeps.interventions import neurons_replaced
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.stepping import CannotStepError, Pass, Recording, Span
from kn_sweeps.models.tokenization import Encoded
from kn_sweeps.progress.counting import counted

log = logging.getLogger(__name__)


class Cell(NamedTuple):
    """One prompt with some neurons at 0.

    Attributes:
        prompt: Its number.
        ranking: By which ranking of the prompt's neurons.
        k: How many of the best.
        kept: Whether those alone are kept; else they alone are at 0.
    """

    prompt: int
    ranking: int
    k: int
    kept: bool


def sizes(neurons: int) -> list[int]:
    """0, 1, 2, 5, 10, 20, 50, ... and all `neurons`."""
    series = (n * 10**power for power in itertools.count() for n in (1, 2, 5))
    return [0, *itertools.takewhile(lambda k: k < neurons, series), neurons]


@torch.no_grad()
def curves(
    lm: LanguageModel,
    prompts: Sequence[Encoded],
    scores: Float[Tensor, "rankings prompts layers d_ff"],
    ks: Sequence[int],
    *,
    max_rows: int = 512,
) -> Float[Tensor, "2 rankings prompts ks"]:
    """Each target's probability with its k best neurons at 0, and with all but those at 0.

    Args:
        lm: The model.
        prompts: Queries with their targets.
        scores: What ranks the neurons; the largest is best.
        ks: How many neurons are best.
        max_rows: Largest number of rows in one forward pass; bounds memory.

    Source: the curves behind the circuit performance ratio and the circuit-model distance of MIB
    (Mueller et al. 2025), with neurons in the place of edges, and 0 in that of another prompt's.
    """
    rows = lm.fitting(max_rows)
    found = torch.zeros(2, len(scores), len(prompts), len(ks), dtype=torch.float64)
    for group in counted(list(groups(prompts, rows)), "batch of prompts"):
        silenced = silencing(lm, [prompts[i] for i in group])
        # The rank of each neuron; equal scores keep the order of the neurons.
        flat = scores[:, group].flatten(2).to(lm.device)
        ranks = (
            flat.argsort(dim=-1, descending=True, stable=True)
            .argsort(dim=-1)
            .int()
            .view(len(scores), len(group), *scores.shape[2:])
        )
        cells = [
            Cell(prompt, ranking, k, kept)
            for prompt in range(len(group))
            for ranking in range(len(scores))
            for kept in (False, True)
            for k in ks
        ]
        values = torch.cat([silenced(ranks, some) for some in _cut(cells, silenced, rows)])
        shaped = values.view(len(group), len(scores), 2, len(ks))
        found[:, :, group] = shaped.permute(2, 1, 0, 3).cpu()
    return found


def silencing(lm: LanguageModel, prompts: Sequence[Encoded]) -> Silencing:
    """The fast way where the model's blocks can be stepped, else the general one."""
    try:
        return SteppedSilencing(lm, prompts)
    except CannotStepError as reason:
        log.debug("whole rows through %s: %s", lm.name, reason)
        return Silencing(lm, prompts)


class Silencing:
    """The general way: whole rows through the whole model.

    Attributes:
        readings: Where the targets are predicted.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[Encoded]) -> None:
        """Say what is run."""
        self._lm = lm
        self.readings = Readings(lm, prompts)

    def __call__(
        self, ranks: Int[Tensor, "rankings prompts layers d_ff"], cells: Sequence[Cell]
    ) -> Float[Tensor, " cells"]:
        """The probability of each cell's target."""
        places = self.readings.places([cell.prompt for cell in cells])
        rows = [n for n, cell in enumerate(cells) for _ in self.readings.rows[cell.prompt]]
        at = {
            name: torch.tensor(each, device=self._lm.device)[rows]
            for name, each in zip(Cell._fields, zip(*cells, strict=True), strict=True)
        }

        def change(layer: int) -> Callable[[Tensor], Tensor]:
            def put(neurons: Tensor) -> Tensor:
                best = ranks[at["ranking"], at["prompt"], layer] < at["k"][:, None]
                # Where the best are kept, the others are at 0.
                silent = best ^ at["kept"][:, None]
                return self._silenced(neurons, silent, places.row, places.position)

            return put

        changes = {layer: change(layer) for layer in range(self._lm.architecture.layers)}
        numbers = [n for cell in cells for n in self.readings.row_numbers(cell.prompt)]
        with neurons_replaced(self._lm, changes):
            hidden = self._hidden(numbers, places.row, places.position, places.slot)
        size = max(1, LOGITS // int(self._lm.model.config.vocab_size))
        gold = [
            self._lm.predicted(some)[range(len(tokens)), tokens].double()
            for some, tokens in zip(hidden.split(size), places.token.split(size), strict=True)
        ]
        log_probability = torch.zeros(len(cells), device=self._lm.device, dtype=torch.float64)
        return log_probability.index_add(0, places.point, torch.cat(gold)).exp()

    def _silenced(self, neurons: Tensor, silent: Tensor, row: Tensor, position: Tensor) -> Tensor:
        changed = neurons.clone()
        changed[row, position] = neurons[row, position].masked_fill(silent[row], 0)
        return changed

    def _hidden(
        self, numbers: Sequence[int], row: Tensor, position: Tensor, _slot: Tensor
    ) -> Float[Tensor, "places d_model"]:
        every = [one.ids for rows in self.readings.rows for one in rows]
        hidden = self._lm.hidden(self._lm.batch([every[n] for n in numbers]))
        return hidden[row, position]


class SteppedSilencing(Silencing):
    """The fast way: only the positions that predict a target, where the model allows it."""

    def __init__(self, lm: LanguageModel, prompts: Sequence[Encoded]) -> None:
        """Run the unchanged model on `prompts`.

        Raises:
            CannotStepError: If the family's blocks cannot be stepped, or stepping does not give
                the model's own hidden states.
        """
        super().__init__(lm, prompts)
        spans = [
            Span(row.ids, row.positions[0], len(row.positions), row.positions[0])
            for rows in self.readings.rows
            for row in rows
        ]
        self._recording = Recording(lm, spans, ())
        places = self.readings.places(range(len(prompts)))
        # Beyond a span's end is nothing that means anything.
        at = (places.row, places.slot if self._recording.causal else 0)
        stepped = Pass(lm, self._recording, {}, range(len(spans))).hidden()[at]
        own = self._recording.hidden[at]
        if not float((stepped - own).norm()) <= 4 * math.sqrt(
            torch.finfo(lm.model.dtype).eps
        ) * float(own.norm()):
            raise CannotStepError("stepping does not give the model's own hidden states")

    def _silenced(self, neurons: Tensor, silent: Tensor, row: Tensor, position: Tensor) -> Tensor:
        if self._recording.causal or neurons.shape[1] == 1:
            return neurons.masked_fill(silent[:, None], 0)
        return super()._silenced(neurons, silent, row, position)

    def _hidden(
        self, numbers: Sequence[int], row: Tensor, _position: Tensor, slot: Tensor
    ) -> Float[Tensor, "places d_model"]:
        hidden = Pass(self._lm, self._recording, {}, numbers).hidden()
        return hidden[row, slot if self._recording.causal else 0]


def _cut(cells: Sequence[Cell], silenced: Silencing, max_rows: int) -> Iterator[list[Cell]]:
    """Cells whose rows fit into one pass."""
    batch: list[Cell] = []
    rows = 0
    for cell in cells:
        own = len(silenced.readings.rows[cell.prompt])
        if batch and rows + own > max_rows:
            yield batch
            batch, rows = [], 0
        batch.append(cell)
        rows += own
    if batch:
        yield batch
