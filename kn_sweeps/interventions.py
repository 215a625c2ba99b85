"""Watch and change what a model computes, and leave no trace.

Every change is a hook, so weights are never touched and leaving the context restores the model
bit for bit, whatever is raised inside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kn_sweeps.edits import Edit, NeuronScale, RankOne
from kn_sweeps.models.language_model import LanguageModel

Neurons = Float[Tensor, "batch seq d_ff"]
Outputs = Float[Tensor, "batch seq d_model"]


@contextmanager
def neurons_replaced(
    lm: LanguageModel, change: Mapping[int, Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Give each layer in `change` its function's neurons (batch, seq, d_ff) for the model's."""

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
        return lambda _module, args: (change[layer](args[0]), *args[1:])

    with ExitStack() as stack:
        for layer in change:
            handle = lm.architecture.mlp_output(layer).register_forward_pre_hook(hook(layer))
            stack.callback(handle.remove)
        yield


@contextmanager
def outputs_replaced(
    lm: LanguageModel, change: Mapping[int, Callable[[Tensor, Tensor], Tensor]]
) -> Iterator[None]:
    """Give each layer in `change` its function of (neurons, MLP output) for the MLP's output."""

    def hook(layer: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        return lambda _module, args, output: change[layer](args[0], output)

    with ExitStack() as stack:
        for layer in change:
            handle = lm.architecture.mlp_output(layer).register_forward_hook(hook(layer))
            stack.callback(handle.remove)
        yield


@contextmanager
def recorded(
    lm: LanguageModel, layers: range | list[int]
) -> Iterator[dict[int, tuple[Neurons, Outputs]]]:
    """Collect (neurons, MLP output) of `layers` from the last forward pass inside."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(layer: int) -> Callable[[Tensor, Tensor], Tensor]:
        def look(neurons: Tensor, output: Tensor) -> Tensor:
            seen[layer] = (neurons.detach(), output.detach())
            return output

        return look

    with outputs_replaced(lm, {layer: keep(layer) for layer in layers}):
        yield seen


@contextmanager
def applied(lm: LanguageModel, edit: Edit) -> Iterator[None]:
    """Put `edit` into effect inside the block.

    Raises:
        ValueError: If the edit names a layer or neuron the model does not have, or its vectors
            do not fit.
    """
    match edit:
        case NeuronScale():
            with neurons_replaced(lm, _scalings(lm, edit)):
                yield
        case RankOne():
            u, v = _vectors(lm, edit)
            with outputs_replaced(
                lm, {edit.layer: lambda x, y: y + ((x.float() @ u)[..., None] * v).to(y.dtype)}
            ):
                yield


@torch.no_grad()
def merge(lm: LanguageModel, edit: Edit) -> None:
    """Write `edit` into the weights, for export. There is no way back.

    Raises:
        ValueError: As `applied`.
    """
    lm.revision = ""
    match edit:
        case NeuronScale():
            _scalings(lm, edit)
            for layer, index in edit.neurons:
                lm.architecture.values(layer)[index] *= edit.factor
        case RankOne():
            u, v = _vectors(lm, edit)
            values = lm.architecture.values(edit.layer)
            values += torch.outer(u, v).to(values.dtype)


def _scalings(lm: LanguageModel, edit: NeuronScale) -> dict[int, Callable[[Tensor], Tensor]]:
    by_layer: dict[int, list[int]] = defaultdict(list)
    for layer, index in edit.neurons:
        lm.architecture.check_layer(layer)
        if not 0 <= index < lm.architecture.d_ff:
            raise ValueError(
                f"neuron ({layer}, {index}) does not exist; layer {layer} has 0 to "
                f"{lm.architecture.d_ff - 1}"
            )
        by_layer[layer].append(index)

    def scaling(indices: list[int]) -> Callable[[Tensor], Tensor]:
        factors = torch.ones(lm.architecture.d_ff, device=lm.device)
        factors[indices] = edit.factor
        return lambda x: x * factors.to(x.dtype)

    return {layer: scaling(indices) for layer, indices in by_layer.items()}


def _vectors(lm: LanguageModel, edit: RankOne) -> tuple[Tensor, Tensor]:
    lm.architecture.check_layer(edit.layer)
    expected = (lm.architecture.d_ff, lm.architecture.d_model)
    if (edit.u.numel(), edit.v.numel()) != expected:
        raise ValueError(
            f"a rank-one edit of this model needs vectors of {expected}, got "
            f"{(edit.u.numel(), edit.v.numel())}"
        )
    return edit.u.to(lm.device).float(), edit.v.to(lm.device).float()
