"""Log-probability increase of one layer's neurons, one neuron at a time.

Formula: log p(w | h + m_i v_i) - log p(w | h), summed over the target's tokens; p is the head
behind the final norm, which divides by what it divides by in the model's own pass.

Source: Yu & Ananiadou (2024), *Neuron-Level Knowledge Attribution in Large Language Models*.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def increase(
    model: nn.Module,
    block: nn.Module,
    projection: nn.Module,
    norm: nn.Module,
    ids: Tensor,
    wanted: Mapping[int, int],
) -> Tensor:
    """Scores of one layer, shape (d_ff,).

    Args:
        model: A causal LM whose output has ``logits``, without a bias in its head.
        block: The layer; its output is the residual stream.
        projection: The layer's MLP output projection.
        norm: The final norm, with ``weight`` and perhaps ``bias``.
        ids: Shape (1, seq).
        wanted: The token predicted at each position that is read.
    """
    kept: dict[str, Tensor] = {}

    def keep_mlp(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        kept["neurons"], kept["mlp"] = args[0][0], output[0]

    def keep_block(_module: nn.Module, _args: object, output: object) -> None:
        kept["block"] = (output if isinstance(output, Tensor) else output[0])[0]  # type: ignore[index]

    def keep_end(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept["end"] = args[0][0]

    handles = [
        norm.register_forward_pre_hook(keep_end),
        projection.register_forward_hook(keep_mlp),
        block.register_forward_hook(keep_block),
    ]
    model(ids)
    for handle in handles:
        handle.remove()
    centred = isinstance(norm, nn.LayerNorm)
    eps = norm.eps if centred else norm.variance_epsilon
    head = model.get_submodule("lm_head")
    total = torch.zeros(kept["neurons"].shape[-1], dtype=kept["mlp"].dtype)
    for position, token in wanted.items():
        h = kept["block"][position] - kept["mlp"][position]
        end = kept["end"][position]
        scale = (end.var(correction=0) if centred else end.pow(2).mean()).add(eps).sqrt()

        def log_p(x: Tensor, scale: Tensor = scale, token: int = token) -> Tensor:
            y = norm.weight * (x - x.mean() if centred else x) / scale
            y = y + norm.bias if centred else y
            return torch.log_softmax(head(y), dim=-1)[token]

        nothing = projection(torch.zeros_like(kept["neurons"][position]))
        for i, m in enumerate(kept["neurons"][position]):
            one = torch.zeros_like(kept["neurons"][position])
            one[i] = m
            total[i] += log_p(h + projection(one) - nothing) - log_p(h)
    return total
