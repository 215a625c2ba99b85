"""Attribution against a corrupted prompt, one layer and one row at a time.

Formula: (a_i - a'_i) * mean over alphas of dP(a' + alpha (a - a')) / d a_i, summed over the answer
positions; a and a' are the inputs of one MLP output projection where the answer is read, of the
clean and of the corrupted prompt; all else is the clean prompt's.

Source: attribution patching (Nanda 2023) is alpha = 1; Hanna et al. 2024, "Have Faith in
Faithfulness", the mean over alpha = k/m, k = 1 .. m; GradDrop (Kramar et al. 2024, AtP*, section
3.2) the mean of alpha = 1's absolute values over gradients that do not pass one other layer, here
with the sign of their sum.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .integrated_gradients import _measured, activations, probability
from .reading import Row


def scores(
    model: nn.Module,
    projection: nn.Module,
    clean: Sequence[Row],
    corrupt: Sequence[Row],
    alphas: Sequence[float],
) -> Tensor:
    """Scores of one layer's neurons, shape (d_ff,)."""
    ends = [activations(model, projection, row) for row in clean]
    starts = [activations(model, projection, row) for row in corrupt]
    total = torch.zeros_like(ends[0][0])
    for alpha in alphas:
        between = [
            (b + alpha * (a - b)).unsqueeze(0).requires_grad_()
            for a, b in zip(ends, starts, strict=True)
        ]
        value = _measured(model, projection, clean, between, probability)[0]
        gradients = torch.autograd.grad(value, between)
        for a, b, gradient in zip(ends, starts, gradients, strict=True):
            total += ((a - b) * gradient[0]).sum(dim=0) / len(alphas)
    return total


@torch.no_grad()
def patched(
    model: nn.Module, projection: nn.Module, clean: Sequence[Row], corrupt: Sequence[Row]
) -> float:
    """P(target) of the clean prompt with one layer's neurons those of the corrupted one."""
    values = [activations(model, projection, row).unsqueeze(0) for row in corrupt]
    return _measured(model, projection, clean, values, probability).item()


def dropped(
    model: nn.Module,
    layers: Sequence[tuple[nn.Module, nn.Module]],
    layer: int,
    clean: Sequence[Row],
    corrupt: Sequence[Row],
) -> Tensor:
    """GradDrop's scores of one layer's neurons; `layers` are attentions' and MLPs' projections."""
    found = []
    for other, modules in enumerate(layers):
        if other != layer:
            with _constant(modules):
                found.append(scores(model, layers[layer][1], clean, corrupt, [1.0]))
    return sum(found).sign() * sum(one.abs() for one in found) / len(found)  # type: ignore[union-attr]


@contextmanager
def _constant(modules: Sequence[nn.Module]) -> Iterator[None]:
    handles = [one.register_forward_hook(lambda _m, _a, out: out.detach()) for one in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
