"""The gradient of a target's probability at every neuron, by one backward pass of the whole model.

Source: the chain rule; ``scores`` weighs it as its caller says, such as by the neuron (gradient
times activation) or by its sign (Zhao et al. 2025, *Neuron Empirical Gradient*).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .integrated_gradients import probability
from .reading import Row


def scores(
    model: nn.Module,
    projections: Sequence[nn.Module],
    rows: Sequence[Row],
    weight: Callable[[float], float],
) -> Tensor:
    """Sum over the answer positions of weight(a_i) * dP/da_i, shape (layers, d_ff)."""
    neurons: list[list[Tensor]] = []
    logits: list[Tensor] = []
    for row in rows:
        kept: list[Tensor] = []

        def keep(_module: nn.Module, args: tuple[Any, ...], kept: list[Tensor] = kept) -> Any:
            # Weights are frozen: the gradient needs somewhere to end.
            kept.append(args[0] + torch.zeros_like(args[0], requires_grad=True))
            return (kept[-1], *args[1:])

        handles = [projection.register_forward_pre_hook(keep) for projection in projections]
        logits.append(model(row.ids).logits)
        for handle in handles:
            handle.remove()
        neurons.append(kept)
    value = probability(logits, rows)[0]
    total = torch.zeros(len(projections), neurons[0][0].shape[-1], dtype=value.dtype)
    for row, kept in zip(rows, neurons, strict=True):
        gradients = torch.autograd.grad(value, kept, retain_graph=True)
        for layer, (a, gradient) in enumerate(zip(kept, gradients, strict=True)):
            for position in row.positions:
                for i, neuron in enumerate(a[0, position].tolist()):
                    total[layer, i] += weight(neuron) * gradient[0, position, i]
    return total
