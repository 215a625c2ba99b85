"""Integrated gradients over MLP neurons (Dai et al. 2022, eq. 1), every layer in one pass.

    Attr(l, i) = a_i * integral over alpha in [0, 1] of dP(y | x; alpha * a_l) / da_i

a_l are the neurons of layer l at the positions that predict the target; one batch row holds one
(layer, alpha) pair, so that one forward and one backward serve all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.interventions import neurons_replaced, recorded
from kn_sweeps.models.language_model import LanguageModel, Row
from kn_sweeps.models.tokenization import Encoded

_FLOOR = 1e-6
"""A change of probability below this counts as this when a residual is judged."""


@dataclass(frozen=True)
class Attribution:
    """How much each neuron adds to one target's probability.

    Attributes:
        scores: Attr(l, i), in probability.
        probability: P(y | x).
        without: P(y | x) with all of a layer's neurons at 0, a layer.
    """

    scores: Float[Tensor, "layers d_ff"]
    probability: float
    without: Float[Tensor, " layers"]

    @property
    def residual(self) -> Float[Tensor, " layers"]:
        """|sum_i Attr(l, i) - (P(a) - P(0))| a layer, in probability.

        Completeness makes it 0 for the exact integral, so it is the error of the layer's sum.
        """
        return (self.scores.sum(-1) - (self.probability - self.without)).abs()


@dataclass(frozen=True)
class _Node:
    """One point of one layer's path: its neurons scaled by `alpha`, with a weight."""

    layer: int
    alpha: float
    weight: float


def integrated_gradients(
    lm: LanguageModel, encoded: Encoded, quadrature: Quadrature, *, max_rows: int = 256
) -> Attribution:
    """Attribute P(target) to every neuron of every layer.

    The target's probability is the joint one of its tokens with gold prefix; the neurons at all
    positions that predict one of them are scaled together and their scores are added.

    Args:
        lm: The model.
        encoded: Query and target.
        quadrature: How the integral is taken; layers that need more nodes get them.
        max_rows: Largest number of rows in one forward pass; bounds memory.

    Returns:
        Scores on the CPU in float32.

    Source: Dai et al. (2022), *Knowledge Neurons in Pretrained Transformers*, eq. 1. They take
    20 Riemann steps; the rule is free here and its error is measured by `residual`.
    """
    rows = lm.rows(encoded)
    neurons, probability = _neurons_at_answer(lm, rows)
    result = Attribution(
        torch.zeros(lm.architecture.layers, lm.architecture.d_ff),
        probability,
        torch.zeros(lm.architecture.layers),
    )
    pending = list(range(lm.architecture.layers))
    rule: Quadrature | None = quadrature
    while rule is not None and pending:
        _integrate(lm, rows, neurons, rule, pending, result, max_rows)
        wanted = rule.tolerance * (probability - result.without).abs().clamp(min=_FLOOR)
        # Below this a residual is rounding of the probabilities, which no node can take away.
        rounding = 32 * torch.finfo(torch.float32).eps * result.without.clamp(min=probability)
        pending = [
            layer
            for layer in pending
            if result.residual[layer] > max(wanted[layer], rounding[layer])
        ]
        rule = rule.refined()
    return result


def _integrate(
    lm: LanguageModel,
    rows: Sequence[Row],
    neurons: Sequence[Float[Tensor, "reads d_ff"]],
    rule: Quadrature,
    layers: Sequence[int],
    result: Attribution,
    max_rows: int,
) -> None:
    """Put the scores of `layers` by one rule into `result`, in place of earlier ones."""
    # The node at 0 has no weight in the integral: it gives the baseline P(0).
    nodes = [
        _Node(layer, alpha, weight)
        for layer in layers
        for alpha, weight in [(0.0, 0.0), *zip(*rule.points(), strict=True)]
    ]
    result.scores[list(layers)] = 0
    per_pass = max(1, max_rows // len(rows))
    for start in range(0, len(nodes), per_pass):
        chunk = nodes[start : start + per_pass]
        gradients, probabilities = _gradients(lm, rows, neurons, chunk)
        for node, gradient, value in zip(chunk, gradients, probabilities, strict=True):
            scores = node.weight * (gradient * neurons[node.layer]).sum(0)
            result.scores[node.layer] += scores.cpu()
            if node.alpha == 0:
                result.without[node.layer] = value


def _neurons_at_answer(
    lm: LanguageModel, rows: Sequence[Row]
) -> tuple[list[Float[Tensor, "reads d_ff"]], float]:
    """Each layer's neurons at the positions that predict the target, and P(target)."""
    which, positions, tokens = _reads(rows)
    with torch.inference_mode(), recorded(lm, range(lm.architecture.layers)) as seen:
        log_probs = lm.log_probs(lm.batch([row.ids for row in rows]), which, positions)
    joint = log_probs[range(len(tokens)), tokens].sum()
    neurons = [seen[layer][0][which, positions].float() for layer in sorted(seen)]
    return [one.clone() for one in neurons], float(joint.exp())


def _reads(rows: Sequence[Row]) -> tuple[list[int], list[int], list[int]]:
    """Row number, position and gold token of every reading."""
    reads = [
        (i, position, token)
        for i, row in enumerate(rows)
        for position, token in zip(row.positions, row.tokens, strict=True)
    ]
    which, positions, tokens = zip(*reads, strict=True)
    return list(which), list(positions), list(tokens)


def _gradients(
    lm: LanguageModel,
    rows: Sequence[Row],
    neurons: Sequence[Float[Tensor, "reads d_ff"]],
    nodes: Sequence[_Node],
) -> tuple[list[Float[Tensor, "reads d_ff"]], list[float]]:
    """Gradient of P(target) with respect to the scaled neurons, and P itself, a node."""
    which, positions, tokens = _reads(rows)
    leaves = [(node.alpha * neurons[node.layer]).requires_grad_() for node in nodes]

    def put(layer: int) -> Callable[[Tensor], Tensor]:
        at = [n for n, node in enumerate(nodes) if node.layer == layer]
        into = [n * len(rows) + i for n in at for i in which]

        def change(x: Tensor) -> Tensor:
            scaled = torch.cat([leaves[n] for n in at]).to(x.dtype)
            index = (torch.tensor(into, device=x.device), torch.tensor(positions * len(at)))
            return x.index_put(index, scaled)

        return change

    batch = lm.batch([row.ids for row in rows] * len(nodes))
    reads = [n * len(rows) + i for n in range(len(nodes)) for i in which]
    with neurons_replaced(lm, {layer: put(layer) for layer in {node.layer for node in nodes}}):
        log_probs = lm.log_probs(batch, reads, positions * len(nodes))
    gold = log_probs[range(len(reads)), tokens * len(nodes)]
    probabilities = gold.reshape(len(nodes), -1).sum(-1).exp()
    gradients = torch.autograd.grad(probabilities.sum(), leaves)
    return list(gradients), probabilities.tolist()
