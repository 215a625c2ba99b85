"""One layer's update of a batch by UltraEdit, from what was seen at that layer.

    x^ = (x - mean) / (std + eps) over all that was seen so far       v_i = -rate * |k^_i|^2 * g^_i
    Delta = (K^T K + weight I)^-1 K^T V

Source: Gu et al. 2025, "ULTRAEDIT: Training-, Subject-, and Memory-Free Lifelong Editing", with the
system of the size of a key, as in its code.
"""

import torch
from torch import Tensor, nn

from .reading import Row

EPS = torch.finfo(torch.float32).eps


def seen(
    model: nn.Module, projections: list[nn.Module], cases: list[list[Row]]
) -> list[tuple[Tensor, Tensor]]:
    """By projection, the keys and the gradients where answers are read, one case at a time."""
    keys: list[list[Tensor]] = [[] for _ in projections]
    gradients: list[list[Tensor]] = [[] for _ in projections]
    for rows in cases:
        tokens = sum(len(row.tokens) for row in rows)
        for row in rows:
            inputs: dict[int, Tensor] = {}
            outputs: dict[int, Tensor] = {}
            handles = []
            for n, projection in enumerate(projections):

                def hook(_module, args, output, n=n, inputs=inputs, outputs=outputs):
                    inputs[n], outputs[n] = args[0], output.clone().requires_grad_(True)
                    outputs[n].retain_grad()
                    return outputs[n]

                handles.append(projection.register_forward_hook(hook))
            log_probs = model(row.ids).logits[0].log_softmax(-1)
            loss = -sum(log_probs[p, t] for p, t in zip(row.positions, row.tokens, strict=True))
            (loss / tokens).backward()
            for handle in handles:
                handle.remove()
            for n in range(len(projections)):
                for position in row.positions:
                    keys[n].append(inputs[n][0, position].detach())
                    gradients[n].append(outputs[n].grad[0, position])
    model.zero_grad()
    return [(torch.stack(k), torch.stack(g)) for k, g in zip(keys, gradients, strict=True)]


def update(
    keys: Tensor,
    gradients: Tensor,
    all_keys: Tensor,
    all_gradients: Tensor,
    rate: float,
    weight: float,
) -> Tensor:
    """What is added to the projection, as (d_ff, d_model).

    Args:
        keys: Of the batch, (places, d_ff).
        gradients: Of the batch, (places, d_model).
        all_keys: Of all batches so far, this one among them.
        all_gradients: Likewise.
        rate: The learning rate.
        weight: Of the identity.
    """
    values = []
    for key, gradient in zip(keys, gradients, strict=True):
        key_hat = (key - all_keys.mean(0)) / (all_keys.std(0) + EPS)
        gradient_hat = (gradient - all_gradients.mean(0)) / (all_gradients.std(0) + EPS)
        values.append(-rate * key_hat.square().sum() * gradient_hat)
    system = keys.T @ keys + weight * torch.eye(keys.shape[1], dtype=keys.dtype)
    return torch.linalg.solve(system, keys.T @ torch.stack(values))
