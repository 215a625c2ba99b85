"""A layer's attributions where later modules put out what they do in the unchanged model.

Formula: that of ``integrated_gradients``, of the P that the model gives with the outputs of some
modules replaced, at the answer positions, by those of the unchanged model. Modules below the layer
are replaced as well: they put out nothing else there.

One layer, one row and one alpha at a time; Gauss-Legendre nodes, which are exact for what is
smooth.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .integrated_gradients import Measure, activations, probability
from .reading import Row


def through_the_rest(
    model: nn.Module,
    projection: nn.Module,
    frozen: Sequence[nn.Module],
    rows: Sequence[Row],
    nodes: int = 12,
    measure: Measure = probability,
) -> tuple[Tensor, float]:
    """Attributions of one layer's neurons, and the measure with all of them at 0.

    Args:
        model: Any LM whose output has ``logits``.
        projection: The layer's MLP output projection.
        frozen: The modules that are frozen; not ``projection``.
        rows: From ``causal_rows`` or ``masked_rows``.
        nodes: How many alphas.
        measure: Of the target.
    """
    neurons = [activations(model, projection, row) for row in rows]
    clean = [[_output(model, module, row) for module in frozen] for row in rows]

    def at(alpha: float) -> tuple[Tensor, list[Tensor]]:
        scaled = [(alpha * a).requires_grad_() for a in neurons]
        logits = [
            _run(model, projection, frozen, *one) for one in zip(rows, scaled, clean, strict=True)
        ]
        return measure(logits, rows)[0], scaled

    points, weights = np.polynomial.legendre.leggauss(nodes)
    total = torch.zeros_like(neurons[0][0])
    for x, weight in zip((points + 1) / 2, weights / 2, strict=True):
        value, scaled = at(float(x))
        for a, gradient in zip(neurons, torch.autograd.grad(value, scaled), strict=True):
            total += float(weight) * (a * gradient).sum(0)
    return total, at(0.0)[0].item()


def _output(model: nn.Module, module: nn.Module, row: Row) -> Tensor:
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _m, _args, output: seen.append(output.detach()))
    with torch.no_grad():
        model(row.ids)
    handle.remove()
    return seen[0]


def _run(
    model: nn.Module,
    projection: nn.Module,
    frozen: Sequence[nn.Module],
    row: Row,
    scaled: Tensor,
    clean: Sequence[Tensor],
) -> Tensor:
    positions = list(row.positions)

    def scale(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        changed = args[0].clone()
        changed[0, positions] = scaled
        return (changed, *args[1:])

    handles = [projection.register_forward_pre_hook(scale)]
    for module, output in zip(frozen, clean, strict=True):

        def put(_module: nn.Module, _args: Any, own: Tensor, output: Tensor = output) -> Tensor:
            changed = own.clone()
            changed[0, positions] = output[0, positions]
            return changed

        handles.append(module.register_forward_hook(put))
    logits: Tensor = model(row.ids).logits
    for handle in handles:
        handle.remove()
    return logits
