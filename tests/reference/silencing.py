"""A target's probability with some neurons at 0 where it is read: one forward pass a row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .reading import Row


@torch.no_grad()
def probability_without(
    model: nn.Module,
    projections: Sequence[nn.Module],
    rows: Sequence[Row],
    silent: Tensor,
) -> float:
    """P of all target tokens of all rows.

    Args:
        model: Any LM whose output has ``logits``.
        projections: The MLP output projections, layer 0 first.
        rows: From ``causal_rows`` or ``masked_rows``.
        silent: True for the neurons at 0, shape (layers, d_ff).
    """
    total = 0.0
    for row in rows:
        handles = []
        for layer, projection in enumerate(projections):

            def put(
                _module: nn.Module,
                args: tuple[Any, ...],
                chosen: Tensor = silent[layer],
                row: Row = row,
            ) -> Any:
                changed: Tensor = args[0].clone()
                for position in row.positions:
                    changed[0, position, chosen] = 0
                return (changed, *args[1:])

            handles.append(projection.register_forward_pre_hook(put))
        logits = model(row.ids).logits[0]
        for handle in handles:
            handle.remove()
        for position, token in zip(row.positions, row.tokens, strict=True):
            total += float(logits[position].log_softmax(-1)[token])
    return float(torch.tensor(total, dtype=torch.float64).exp())
