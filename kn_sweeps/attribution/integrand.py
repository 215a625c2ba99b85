"""What is integrated: a measure of the target as one layer's neurons are scaled by alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kn_sweeps.attribution.contrast import rival_of, rows_of
from kn_sweeps.interventions import recorded
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import at_least_float32
from kn_sweeps.models.tokenization import Encoded

Measure = Literal["probability", "log_probability", "logit_difference"]
"""Of the joint target, its tokens predicted from the gold ones before them; or how much higher the
logit of a `Contrasted` target is than its rival's, where the two answers depart."""

Site = Literal["activation", "pre_activation"]
"""Where neurons are scaled: behind the activation function, where they are a change of weights, or
before it, as Niu et al.'s code does in decoders (in masked LMs it, too, scales behind it)."""

LOGITS = 8_000_000
"""Logits held at a time: those of a large vocabulary are the largest tensors of all, and an
allocator gives blocks above 32 MB back at once."""


class Point(NamedTuple):
    """One point of one path: for `prompt`, the neurons of `layer` scaled by `alpha`."""

    prompt: int
    layer: int
    alpha: float


@dataclass(frozen=True)
class Whole:
    """The unchanged model: alpha = 1 for every layer.

    A prompt has a slot for each token of its target; those it does not need are zero.

    Attributes:
        neurons: Where the target is predicted; how much they are above the baseline's.
        values: The measure.
        gradients: Of the measure with respect to the MLP's output where the target is predicted.
        sharpness: The measure may change fast where alpha is below 1 / sharpness; 1 where that is
            not known. It is how much longer the MLP's output is than what it is added to or, behind
            a norm, than what that norm does not take for 0.
    """

    neurons: Float[Tensor, "layers prompts slots d_ff"]
    values: Float[Tensor, " prompts"]
    gradients: Float[Tensor, "layers prompts slots d_model"]
    sharpness: Float[Tensor, "layers prompts"]


class Integrand(Protocol):
    """A measure of some prompts' targets, and its gradient, on the paths that scale one layer.

    The MLP's output at alpha is b + W a' + alpha * W (a - a'): the neurons a of all places that
    predict a token of the target are scaled together. The baseline a' is 0, or what the neurons are
    where another prompt's target is predicted.

    Attributes:
        whole: The unchanged model.
        readings: Where the targets are predicted.
    """

    whole: Whole
    readings: Readings

    def by_neuron(self, layer: int, gradients: Float[Tensor, "... written"]) -> Tensor:
        """Gradients with respect to `layer`'s neurons, from those that `at` and `whole` give."""

    def at(
        self, points: Sequence[Point]
    ) -> tuple[Float[Tensor, " points"], Float[Tensor, "points slots d_model"]]:
        """The measure, and its gradient with respect to the layer's MLP output."""


@dataclass(frozen=True)
class Places:
    """Every place that predicts a token of the target, for some points after one another.

    Attributes:
        row: Row of token ids; a point's rows follow those of the point before.
        position: Position in the row.
        token: What should be predicted there.
        point: Which point it belongs to.
        slot: Number of the place within its point.
        source: Its number among the places of all prompts.
        rival: What the token is compared with; -1 for nothing.
    """

    row: Int[Tensor, " places"]
    position: Int[Tensor, " places"]
    token: Int[Tensor, " places"]
    point: Int[Tensor, " places"]
    slot: Int[Tensor, " places"]
    source: Int[Tensor, " places"]
    rival: Int[Tensor, " places"]


class Readings:
    """How the targets of some prompts are read; see `LanguageModel.rows`.

    Attributes:
        rows: Each prompt's.
        sizes: How many places of each prompt are read: one for each token of its target.
        slots: The largest of them.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[Encoded]) -> None:
        """Take the rows of `prompts`."""
        self._device = lm.device
        self.rows = [rows_of(lm, prompt) for prompt in prompts]
        self.sizes = [sum(len(row.tokens) for row in rows) for rows in self.rows]
        rivals = [rival_of(prompt) for prompt in prompts]
        self._rivals = [-1 if rival is None else rival for rival in rivals]
        self.slots = max(self.sizes)
        self._first = [sum(self.sizes[:p]) for p in range(len(prompts))]

    def row_numbers(self, prompt: int) -> range:
        """Which of the rows of all prompts are `prompt`'s."""
        first = sum(len(rows) for rows in self.rows[:prompt])
        return range(first, first + len(self.rows[prompt]))

    def places(self, prompts: Sequence[int]) -> Places:
        """The places of one point for each of `prompts`."""
        found: list[tuple[int, ...]] = []
        row = 0
        for point, prompt in enumerate(prompts):
            slot = 0
            for one in self.rows[prompt]:
                for position, token in zip(one.positions, one.tokens, strict=True):
                    source = self._first[prompt] + slot
                    found.append((row, position, token, point, slot, source, self._rivals[prompt]))
                    slot += 1
                row += 1
        return Places(*torch.tensor(found, device=self._device).T)

    def by_point(
        self, x: Float[Tensor, "places width"], places: Places, points: int
    ) -> Float[Tensor, "points slots width"]:
        """Sort values at places by point and slot, in single precision or better."""
        wide = at_least_float32(x)
        sorted_ = wide.new_zeros(points, self.slots, x.shape[-1])
        return sorted_.index_put((places.point, places.slot), wide)


class Baseline:
    """What neurons are where other prompts' targets are predicted, which have as many tokens.

    Attributes:
        neurons: By layer, at the places of all prompts.
        linear: By layer, the MLP's output there without its bias.
    """

    def __init__(self, lm: LanguageModel, prompts: Sequence[Encoded]) -> None:
        """Run the unchanged model on `prompts`."""
        readings = Readings(lm, prompts)
        places = readings.places(range(len(prompts)))
        at = (places.row, places.position)
        layers = range(lm.architecture.layers)
        with torch.no_grad(), recorded(lm, layers) as seen:
            lm.hidden(lm.batch([row.ids for rows in readings.rows for row in rows]))
        self.sizes = readings.sizes
        self.neurons = [seen[layer][0][at] for layer in layers]
        biases = [lm.architecture.bias(layer) for layer in layers]
        outputs = [seen[layer][1][at] for layer in layers]
        self.linear = [y if b is None else y - b for y, b in zip(outputs, biases, strict=True)]

    def check(self, readings: Readings) -> None:
        """Raise ValueError unless targets are read at as many places."""
        if self.sizes != readings.sizes:
            raise ValueError(
                f"targets read at {readings.sizes} places are compared with some read at "
                f"{self.sizes}; compare prompts with the same target"
            )


def sharpness_of(
    lm: LanguageModel, linear: Float[Tensor, "layers prompts slots d_model"]
) -> Float[Tensor, "layers prompts"]:
    """How sharply what is added changes near alpha = 0, given the MLPs' outputs without biases."""
    each = [lm.architecture.sharpness(layer, x) for layer, x in enumerate(linear)]
    return torch.stack(each).amax(-1)


def through_slots(
    lm: LanguageModel, layer: int, gradients: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_ff"]:
    """Gradients with respect to the neurons, from those with respect to the MLP's output."""
    return gradients @ at_least_float32(lm.architecture.values(layer)).T


def measured(
    lm: LanguageModel,
    hidden: Float[Tensor, "places d_model"],
    places: Places,
    points: int,
    measure: Measure,
) -> tuple[Float[Tensor, " points"], Float[Tensor, "places d_model"]]:
    """The measure of each point, and its gradient with respect to the final hidden states.

    Raises:
        ValueError: If logits are to be compared and a target has no rival.
    """
    differences = measure == "logit_difference"
    if differences and int(places.rival.min()) < 0:
        raise ValueError(
            "a logit difference is one between two answers, and a prompt has one alone; encode it "
            "with `attribution.contrast.contrasted`, or use another measure"
        )
    size = max(1, LOGITS // int(lm.model.config.vocab_size))
    each_place = (x.split(size) for x in (hidden.detach(), places.token, places.rival))
    of = _difference if differences else _gold
    found = [of(lm.architecture.head, *some) for some in zip(*each_place, strict=True)]
    gold, gradient = (torch.cat(each) for each in zip(*found, strict=True))
    joint = gold.new_zeros(points).index_add(0, places.point, gold)
    if measure != "probability":
        return joint, gradient
    values = joint.exp()
    return values, (values[places.point][:, None] * gradient).to(gradient.dtype)


@torch.enable_grad()
def _difference(
    head: Callable[[Tensor], Tensor], hidden: Tensor, tokens: Tensor, rivals: Tensor
) -> tuple[Float[Tensor, " places"], Float[Tensor, "places d_model"]]:
    """How much higher the tokens' logits are than those of their rivals, and the gradients."""
    hidden = hidden.requires_grad_()
    logits = at_least_float32(head(hidden))
    at = torch.arange(len(tokens), device=tokens.device)
    difference = logits[at, tokens] - logits[at, rivals]
    (gradient,) = torch.autograd.grad(difference.sum(), hidden)
    return difference.detach(), gradient


@torch.enable_grad()
def _gold(
    head: Callable[[Tensor], Tensor], hidden: Tensor, tokens: Tensor, _rivals: Tensor
) -> tuple[Float[Tensor, " places"], Float[Tensor, "places d_model"]]:
    """The tokens' log-probabilities and their gradients."""
    hidden = hidden.requires_grad_()
    logits = head(hidden)
    with torch.no_grad():
        wide = at_least_float32(logits)
        at = torch.arange(len(tokens), device=tokens.device)
        largest = wide.amax(-1, keepdim=True)
        outer = (wide - largest).exp_()
        total = outer.sum(-1, keepdim=True)
        gold = wide[at, tokens] - (largest + total.log())[:, 0]
        outer /= -total
        outer[at, tokens] += 1
    (gradient,) = torch.autograd.grad(logits, hidden, outer.to(logits.dtype))
    return gold, gradient
