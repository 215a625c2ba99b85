"""The general integrand: whole rows through the whole model, the MLP's output replaced by a hook.

It asks nothing of a family but `Architecture.mlp_output`, and is what the fast one is tested
against. It is also the one that scales before the activation function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kn_sweeps.attribution.freezing import Freezing, Frozen
from kn_sweeps.attribution.integrand import (
    Baseline,
    Measure,
    Places,
    Point,
    Readings,
    Site,
    Whole,
    measured,
    sharpness_of,
    through_slots,
)
from kn_sweeps.interventions import outputs_replaced, recorded
from kn_sweeps.models.language_model import Batch, LanguageModel
from kn_sweeps.models.tokenization import Encoded


class HookedIntegrand:
    """See `Integrand`."""

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[Encoded],
        measure: Measure = "probability",
        site: Site = "activation",
        frozen: Frozen = "nothing",
        baseline: Baseline | None = None,
    ) -> None:
        """Run the unchanged model on `prompts`.

        Raises:
            ValueError: If there is a baseline and neurons are scaled before the activation
                function, or it is of another number of places.
        """
        self._lm, self._measure = lm, measure
        self._freezing = Freezing(lm, frozen)
        self._before = site == "pre_activation" and lm.architecture.pre_activation(0) is not None
        self._width = lm.architecture.d_ff
        self._module = self._pre_activation if self._before else lm.architecture.mlp_output
        self.readings = Readings(lm, prompts)
        layers = range(lm.architecture.layers)
        everyone = range(len(prompts))
        places = self.readings.places(everyone)
        with (
            torch.no_grad(),
            self._freezing.recording(),
            recorded(lm, list(layers), self._module) as seen,
        ):
            lm.hidden(self._batch(everyone))
        at = (places.row, places.position)
        # What is scaled of the outputs, and what stays: a bias, or what a gate multiplies.
        self._linear: list[Tensor] = []
        self._rest: list[Tensor] = []
        for layer in layers:
            output = seen[layer][1][at]
            bias = None if self._before else lm.architecture.bias(layer)
            rest = torch.zeros_like(output) if bias is None else bias.expand_as(output)
            if self._before:
                rest[:, self._width :] = output[:, self._width :]
            self._rest.append(rest)
            self._linear.append(output - rest)
        neurons = [self._neurons(seen[layer])[at] for layer in layers]
        if baseline is not None:
            if self._before:
                raise ValueError("a baseline is one behind the activation function")
            baseline.check(self.readings)
            for layer, linear in enumerate(baseline.linear):
                self._rest[layer] = self._rest[layer] + linear
                self._linear[layer] = self._linear[layer] - linear
            neurons = [a - b for a, b in zip(neurons, baseline.neurons, strict=True)]
        unchanged = torch.ones(len(places.row), device=lm.device)
        every_place = torch.arange(len(places.row), device=lm.device)
        values, gradients = self._run(
            everyone, places, {layer: (every_place, unchanged) for layer in layers}
        )

        def by_point(x: Tensor) -> Tensor:
            return self.readings.by_point(x, places, len(prompts))

        linear = torch.stack([by_point(self._linear[layer]) for layer in layers])
        self.whole = Whole(
            torch.stack([by_point(a) for a in neurons]),
            values,
            torch.stack([by_point(gradients[layer]) for layer in layers]),
            torch.ones(linear.shape[:2])
            if self._before or baseline is not None
            else sharpness_of(lm, linear),
        )

    def at(
        self, points: Sequence[Point]
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points slots d_model"]]:
        """See `Integrand.at`."""
        prompts = [point.prompt for point in points]
        places = self.readings.places(prompts)
        given = [point.alpha for point in points]
        alphas = torch.tensor(given, device=self._lm.device, dtype=torch.float64)
        layers = torch.tensor([point.layer for point in points], device=self._lm.device)
        scales = {}
        for layer in layers.unique().tolist():
            here = torch.nonzero(layers[places.point] == layer)[:, 0]
            scales[layer] = (here, alphas[places.point[here]])
        values, found = self._run(prompts, places, scales)
        order = torch.cat([here for here, _ in scales.values()]).argsort()
        gradients = torch.cat([found[layer] for layer in scales])[order]
        return values, self.readings.by_point(gradients, places, len(points))

    def by_neuron(self, layer: int, gradients: Float[Tensor, "... written"]) -> Tensor:
        """See `Integrand.by_neuron`."""
        if self._before:
            return gradients[..., : self._width]
        return through_slots(self._lm, layer, gradients)

    def _neurons(self, seen: tuple[Tensor, Tensor]) -> Tensor:
        """What is attributed to, of a module's input and output."""
        return seen[1][..., : self._width] if self._before else seen[0]

    def _pre_activation(self, layer: int) -> nn.Module:
        module = self._lm.architecture.pre_activation(layer)
        assert module is not None
        return module

    def _run(
        self, prompts: Sequence[int], places: Places, scales: dict[int, tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Run one point for each of `prompts`.

        Args:
            prompts: What each point is about.
            places: Theirs.
            scales: For each layer the places where its MLP's linear output is scaled, and by how
                much.

        Returns:
            The measure a point, and for each layer its gradient at its places.
        """
        outputs: dict[int, Tensor] = {}

        def put(layer: int) -> Callable[[Tensor, Tensor], Tensor]:
            here, scale = scales[layer]
            index = (places.row[here], places.position[here])

            def change(_neurons: Tensor, output: Tensor) -> Tensor:
                source = places.source[here]
                linear, rest = self._linear[layer][source], self._rest[layer][source]
                scaled = rest + (scale[:, None] * linear).to(output.dtype)
                # Gradients of layers below pass through here; nothing is added to the numbers.
                own = output[index]
                changed = scaled + (own - own.detach())
                outputs[layer] = changed if changed.requires_grad else changed.requires_grad_()
                return output.index_put(index, outputs[layer])

            return change

        numbers = [n for p in prompts for n in self.readings.row_numbers(p)]
        changes = {layer: put(layer) for layer in scales}
        # The scaled layer's own output is replaced behind the hook that would freeze it.
        with (
            self._freezing.frozen(torch.tensor(numbers, device=self._lm.device)),
            outputs_replaced(self._lm, changes, self._module),
        ):
            hidden = self._lm.hidden(self._batch(prompts))[places.row, places.position]
        values, outer = measured(self._lm, hidden, places, len(prompts), self._measure)
        found = torch.autograd.grad(hidden, [outputs[layer] for layer in scales], outer)
        return values, dict(zip(scales, found, strict=True))

    def _batch(self, prompts: Sequence[int]) -> Batch:
        return self._lm.batch([row.ids for p in prompts for row in self.readings.rows[p]])
