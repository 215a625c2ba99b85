"""The fast integrand: all layers' rows in one batch, each joining behind the layer it scales.

There is one span for each row that reads a target: a causal LM's holds all positions that predict
one of its tokens, a masked LM's is one mask. First the prompts themselves are stepped, unchanged:
that gives the gradient at alpha = 1 for every layer at once, and their measure must be the
model's own, which checks the construction on every prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.attribution.freezing import Freezing, Frozen
from kn_sweeps.attribution.integrand import (
    Baseline,
    Measure,
    Places,
    Point,
    Readings,
    Whole,
    measured,
    sharpness_of,
    through_slots,
)
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.stepping import CannotStepError, Join, Pass, Recording, Span
from kn_sweeps.models.tokenization import Encoded

_STEEP = 64
"""Panels for an MLP's output that is more than this many times what it is added to are found."""


class SteppedIntegrand:
    """See `Integrand`."""

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Encoded],
        measure: Measure = "probability",
        frozen: Frozen = "nothing",
        baseline: Baseline | None = None,
    ) -> None:
        """Run the unchanged model on `prompts`.

        Raises:
            CannotStepError: If the family's blocks cannot be stepped, or stepping does not give
                the model's own measure of the targets.
            ValueError: If the baseline is of another number of places.
        """
        self._lm, self._measure = lm, measure
        self._freezing = Freezing(lm, frozen)
        self.readings = Readings(lm, prompts)
        spans = [
            Span(row.ids, row.positions[0], len(row.positions), row.positions[0])
            for rows in self.readings.rows
            for row in rows
        ]
        self._recording = Recording(lm, spans, range(lm.architecture.layers))
        everyone = range(len(prompts))
        places = self.readings.places(everyone)
        self._from_zero = baseline is None
        if baseline is not None:
            self._take_off(baseline, places)
        hidden = self._at(self._recording.hidden, places)
        own, _ = measured(lm, hidden, places, len(prompts), measure)
        self.whole = self._whole(places, len(prompts))
        # Only a probability is small where it is exact: what is in nats or logits may cross 0.
        least = torch.finfo(own.dtype).tiny if measure == "probability" else 1.0
        off = (self.whole.values - own).abs() / own.abs().clamp(min=least)
        if not float(off.max()) <= 4 * math.sqrt(torch.finfo(lm.model.dtype).eps):
            raise CannotStepError(
                f"stepping gives a {measure.replace('_', '-')} of {self.whole.values.tolist()}, "
                f"the model itself {own.tolist()}"
            )

    def at(
        self, points: Sequence[Point]
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points slots d_model"]]:
        """See `Integrand.at`."""
        recording = self._recording
        order = sorted(range(len(points)), key=lambda n: points[n].layer)
        ordered = [points[n] for n in order]
        places = self.readings.places([point.prompt for point in ordered])
        joins: dict[int, Join] = {}
        leaves: list[Tensor] = []
        for layer in dict.fromkeys(point.layer for point in ordered):
            here = [
                (span, point.alpha)
                for point in ordered
                if point.layer == layer
                for span in self.readings.row_numbers(point.prompt)
            ]
            spans = torch.tensor([span for span, _ in here], device=self._lm.device)
            scale = torch.tensor([x for _, x in here], device=self._lm.device, dtype=torch.float64)
            leaf, sums = self._scaled(layer, spans, scale[:, None, None])
            leaves.append(leaf)
            joins[layer] = Join(spans, sums)
        steps = Pass(self._lm, recording, joins)
        with self._freezing.frozen(steps.spans):
            hidden = steps.hidden()
        final = self._at(hidden, places)
        values, outer = measured(self._lm, final, places, len(points), self._measure)
        found = torch.autograd.grad(final, leaves, outer)
        gradients = self.readings.by_point(self._at(torch.cat(found), places), places, len(points))
        back = torch.tensor(order, device=values.device).argsort()
        return values[back], gradients[back]

    def _scaled(self, layer: int, spans: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Sums where the MLP puts out b + scale * W a, and what to differentiate them by for it."""
        recording, architecture = self._recording, self._lm.architecture
        linear, sums = recording.linear[layer][spans], recording.sums[layer][spans]
        if architecture.adds_as_is:
            change = ((scale - 1) * linear).to(linear.dtype).requires_grad_()
            return change, sums + change
        written = recording.written[layer][spans]
        # A norm stretches the smallest of multiples, which a difference would drown in rounding.
        output = (written - linear + scale * linear).to(linear.dtype).requires_grad_()
        rest = sums - architecture.added(layer, written)
        return output, rest + architecture.added(layer, output)

    def by_neuron(self, layer: int, gradients: Float[Tensor, "... written"]) -> Tensor:
        """See `Integrand.by_neuron`."""
        return through_slots(self._lm, layer, gradients)

    def _at(self, x: Tensor, places: Places) -> Float[Tensor, "places width"]:
        """`x` (rows, width, ...) at the places."""
        return x[places.row, places.slot if self._recording.causal else 0]

    def _take_off(self, baseline: Baseline, places: Places) -> None:
        """Let what is scaled of each MLP be what it has more than the baseline."""
        baseline.check(self.readings)
        at = (places.row, places.slot if self._recording.causal else torch.zeros_like(places.slot))
        for layer, neurons in self._recording.neurons.items():
            neurons[at] -= baseline.neurons[layer]
            # A copy: where there is no bias it is what was written, too.
            linear = self._recording.linear[layer].clone()
            linear[at] -= baseline.linear[layer]
            self._recording.linear[layer] = linear

    def _whole(self, places: Places, prompts: int) -> Whole:
        recording = self._recording
        steps = Pass(self._lm, recording, {}, range(len(recording.positions)), differentiable=True)
        with self._freezing.recording():
            final = self._at(steps.hidden(), places)
        values, outer = measured(self._lm, final, places, prompts, self._measure)
        gradients = torch.autograd.grad(final, steps.mlp_outputs, outer)

        def by_point(layers: Sequence[Tensor]) -> Tensor:
            each = [self.readings.by_point(x, places, prompts) for x in layers]
            return torch.stack(each)

        def recorded(by_layer: dict[int, Tensor]) -> Tensor:
            return by_point([self._at(x, places) for x in by_layer.values()])

        # A masked LM's rows are whole before its last block.
        whole = not recording.causal
        at = [
            y[places.row, places.position] if whole and y.shape[1] > 1 else self._at(y, places)
            for y in gradients
        ]
        neurons, linear = recorded(recording.neurons), recorded(recording.linear)
        sharpness = linear.new_ones(linear.shape[:2])
        if self._from_zero:
            sharpness = sharpness_of(self._lm, linear)
        if self._lm.architecture.adds_as_is:
            rest = recorded(recording.sums) - linear
            tiny = torch.finfo(rest.dtype).tiny
            ratios = linear.norm(dim=-1) / rest.norm(dim=-1).clamp(min=tiny)
            sharpness = ratios.amax(-1).clamp(max=_STEEP)
        return Whole(neurons, values, by_point(at), sharpness)
