"""Causal tracing as it is described: one forward pass a cell, hooks on the model's own modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Read = Callable[[int], Tensor]


def indirect_effects(
    embeddings: nn.Module,
    modules: Sequence[nn.Module],
    subject: tuple[int, int],
    noise: Tensor,
    length: int,
    window: int,
    read: Read,
) -> tuple[float, Tensor]:
    """Restore the clean output of some modules, one cell at a time.

    Args:
        embeddings: The token embedding.
        modules: What is restored, one a layer.
        subject: Positions of the corrupted tokens.
        noise: (samples, tokens, width), added to their embeddings.
        length: Positions.
        window: Layers restored together.
        read: Runs the model on some copies of the prompt and gives the answer's probabilities.

    Returns:
        The corrupted probability and (positions, layers) of what restoring adds to it.
    """
    clean: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _m, _a, output: clean.append(_first(output).clone()))
        for module in modules
    ]
    read(1)
    for handle in handles:
        handle.remove()
    corrupted = _mean(read, embeddings, subject, noise)
    effects = torch.zeros(length, len(modules), dtype=torch.float64)
    for position in range(length):
        for layer in range(len(modules)):
            first, stop = max(0, layer - window // 2), layer + (window + 1) // 2
            some = range(first, min(len(modules), stop))
            handles = [
                modules[one].register_forward_hook(_restoring(clean[one], position)) for one in some
            ]
            effects[position, layer] = _mean(read, embeddings, subject, noise) - corrupted
            for handle in handles:
                handle.remove()
    return corrupted, effects


def _mean(read: Read, embeddings: nn.Module, subject: tuple[int, int], noise: Tensor) -> float:
    def corrupt(_m: nn.Module, _a: object, output: Tensor) -> Tensor:
        changed = output.clone()
        changed[:, slice(*subject)] += noise.to(output.dtype)
        return changed

    handle = embeddings.register_forward_hook(corrupt)
    values = read(len(noise))
    handle.remove()
    return float(values.double().mean())


def _restoring(clean: Tensor, position: int) -> Callable[..., object]:
    def hook(_m: nn.Module, _a: object, output: Tensor | tuple[Tensor, ...]) -> object:
        changed = _first(output).clone()
        changed[:, position] = clean[:, position]
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    return hook


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
