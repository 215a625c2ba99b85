"""Knowledge attribution of MLP neurons by integrated gradients, one layer at a time.

Formula: Attr(l, i) = a_i * integral over alpha in [0, 1] of dP(alpha a_l) / d a_i, by the right
Riemann sum (a_i / m) sum_{k=1}^{m} dP(k/m a_l) / d a_i, summed over the answer positions. ``a_l``
is the *input* of layer l's MLP output projection; P is the joint probability of all target tokens
with the gold prefix (a product over tokens).

Source: Dai et al. 2022, "Knowledge Neurons in Pretrained Transformers", eq. 1 and the sum below it.
Deviations: their code sums k = 0 .. m-1 and EleutherAI's port takes k / (m-1); the paper's
k = 1 .. m is kept here. Both know one answer position only; here a causal LM has one row with one
answer position a target token, a masked LM one row a target token, each with its own mask (see
``reading``), and all answer positions are scaled by the same alpha.

``projections`` lists the MLP output projections, layer 0 first. The model is in evaluation mode.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .reading import Row

Measure = Callable[[Sequence[Tensor], Sequence[Row]], Tensor]
"""What is attributed, of the logits of each row."""


def riemann(
    model: nn.Module,
    projections: Sequence[nn.Module],
    layer: int,
    rows: Sequence[Row],
    steps: int = 20,
) -> Tensor:
    """Right Riemann sum, one forward and one backward pass a row and step.

    Args:
        model: Any LM whose output has ``logits``.
        projections: The MLP output projections, layer 0 first.
        layer: From 0.
        rows: From ``causal_rows`` or ``masked_rows``.
        steps: m above.

    Returns:
        Attributions of this layer's neurons, shape (d_ff,).
    """
    alphas = [k / steps for k in range(1, steps + 1)]
    return _quadrature(model, projections[layer], rows, alphas)


def midpoint(
    model: nn.Module,
    projections: Sequence[nn.Module],
    layer: int,
    rows: Sequence[Row],
    steps: int = 20,
    measure: Measure | None = None,
) -> Tensor:
    """As ``riemann``, at the middles of the steps, alpha = (k - 1/2) / m: the error is O(1/m^2).

    ``measure`` takes the place of P: ``log_probability`` or a ``logit_difference``.
    """
    alphas = [(k - 0.5) / steps for k in range(1, steps + 1)]
    return _quadrature(model, projections[layer], rows, alphas, measure)


def riemann_batched(
    model: nn.Module,
    projections: Sequence[nn.Module],
    layer: int,
    rows: Sequence[Row],
    steps: int = 20,
) -> Tensor:
    """As ``riemann``, with all steps of a row as one batch.

    One plain forward, one forward of ``steps`` rows and one backward pass a row. It is how the
    published code works, and so what the fast code is timed against.
    """
    projection = projections[layer]
    scale = [k / steps for k in range(1, steps + 1)]
    originals = [activations(model, projection, row) for row in rows]
    scaled = [torch.stack([alpha * a for alpha in scale]).requires_grad_() for a in originals]
    probabilities = _measured(model, projection, rows, scaled, probability)  # (steps,)
    gradients = torch.autograd.grad(probabilities.sum(), scaled)
    total = torch.zeros_like(originals[0][0])
    for a, gradient in zip(originals, gradients, strict=True):
        total += (a * gradient.sum(dim=0)).sum(dim=0) / steps
    return total


def probability_at(
    model: nn.Module,
    projections: Sequence[nn.Module],
    layer: int,
    rows: Sequence[Row],
    alpha: float,
) -> float:
    """P(target) with this layer's activations at the answer positions scaled by alpha.

    Completeness: as steps grow, a layer's attributions sum to its value at 1 less its value at 0.
    """
    originals = [activations(model, projections[layer], row) for row in rows]
    with torch.no_grad():
        scaled = [(alpha * a).unsqueeze(0) for a in originals]
        return _measured(model, projections[layer], rows, scaled, probability).item()


def knowledge_neurons_reference(
    model: nn.Module,
    projections: Sequence[nn.Module],
    rows: Sequence[Row],
    steps: int = 20,
    rule: Callable[..., Tensor] = riemann_batched,
) -> Tensor:
    """Attributions of all layers, one layer after another: the baseline of the benchmarks.

    Args:
        model: Any LM whose output has ``logits``.
        projections: The MLP output projections, layer 0 first.
        rows: From ``causal_rows`` or ``masked_rows``.
        steps: Nodes a layer.
        rule: ``riemann_batched`` (as published), ``riemann`` (one step at a time) or ``midpoint``.

    Returns:
        Shape (layers, d_ff).
    """
    return torch.stack(
        [rule(model, projections, layer, rows, steps) for layer in range(len(projections))]
    )


@torch.no_grad()
def activations(model: nn.Module, projection: nn.Module, row: Row) -> Tensor:
    """The neurons' values at the row's answer positions, unmodified, shape (positions, d_ff)."""
    seen: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        model(row.ids)
    finally:
        handle.remove()
    return seen[0][0, list(row.positions)].clone()


def _quadrature(
    model: nn.Module,
    projection: nn.Module,
    rows: Sequence[Row],
    alphas: Sequence[float],
    measure: Measure | None = None,
) -> Tensor:
    """Mean over alphas of a * dP(alpha a)/da, summed over the answer positions of all rows."""
    originals = [activations(model, projection, row) for row in rows]
    total = torch.zeros_like(originals[0][0])
    for alpha in alphas:
        scaled = [(alpha * a).unsqueeze(0).requires_grad_() for a in originals]
        value = _measured(model, projection, rows, scaled, measure or probability)[0]
        # One gradient a row, of the product over rows: a row's factor is the others' weight.
        gradients = torch.autograd.grad(value, scaled)
        for a, gradient in zip(originals, gradients, strict=True):
            total += (a * gradient[0]).sum(dim=0) / len(alphas)
    return total


def log_probability(logits: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
    """log P of all target tokens of all rows; ``logits`` of each, shape (batch, seq, vocab)."""
    total = torch.zeros((), dtype=logits[0].dtype, device=logits[0].device)
    for row, of_row in zip(rows, logits, strict=True):
        for position, token in zip(row.positions, row.tokens, strict=True):
            total = total + torch.log_softmax(of_row[:, position], dim=-1)[:, token]
    return total


def probability(logits: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
    """P of all target tokens of all rows."""
    return log_probability(logits, rows).exp()


def logit_difference(rival: int) -> Measure:
    """How much higher the logit of the one row's one token is than that of ``rival``."""

    def measure(logits: Sequence[Tensor], rows: Sequence[Row]) -> Tensor:
        ((position,), (token,)) = rows[0].positions, rows[0].tokens
        return logits[0][:, position, token] - logits[0][:, position, rival]

    return measure


def _measured(
    model: nn.Module,
    projection: nn.Module,
    rows: Sequence[Row],
    values: Sequence[Tensor],
    measure: Measure,
) -> Tensor:
    """A measure of all rows, with each row's activations overwritten.

    ``values`` holds one tensor a row, shape (batch, positions, d_ff); the result is (batch,).
    """
    logits = []
    for row, value in zip(rows, values, strict=True):
        with _overwritten(projection, row.positions, value):
            logits.append(model(row.ids.repeat(len(value), 1)).logits)
    return measure(logits, rows)


@contextmanager
def _overwritten(projection: nn.Module, positions: Sequence[int], value: Tensor) -> Iterator[None]:
    """Put ``value`` in place of the projection's input at ``positions`` while the block runs."""

    def overwrite(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0].clone()
        hidden[:, list(positions)] = value
        return (hidden, *args[1:])

    handle = projection.register_forward_pre_hook(overwrite)
    try:
        yield
    finally:
        handle.remove()


def before_the_activation(
    model: torch.nn.Module, module: torch.nn.Module, ids: Tensor, token: int, *, steps: int
) -> Tensor:
    """kn_thesis' scores of a decoder's neurons: ``module``'s output at the last place is scaled.

    Args:
        model: A causal LM.
        module: What one layer's activation function reads.
        ids: One prompt, (1, positions).
        token: The target.
        steps: Points from 0 to 1, both included, each with weight 1 / steps.

    Returns:
        The scores, (neurons,).
    """
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _a, out: seen.append(out[0, -1].detach()))
    model(ids)
    handle.remove()
    total = torch.zeros_like(seen[0])
    for alpha in torch.linspace(0, 1, steps, dtype=total.dtype):
        z = (alpha * seen[0]).requires_grad_()

        def put(_module: nn.Module, _args: Any, out: Tensor, z: Tensor = z) -> Tensor:
            return torch.cat([out[:, :-1], z.expand(1, 1, -1)], 1)

        handle = module.register_forward_hook(put)
        probability = model(ids).logits[0, -1].softmax(-1)[token]
        handle.remove()
        (gradient,) = torch.autograd.grad(probability, z)
        total += gradient
    return total * seen[0] / steps
