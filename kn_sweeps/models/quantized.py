"""Weights that are kept in 8 or 4 bits, and are numbers again whenever they are computed with.

8 bits are integers with a scale a row; 4 bits are NF4 (Dettmers et al. 2023, *QLoRA*, appendix E)
with a scale for each 64. Nothing rounds what a weight is multiplied with: a projection stays
W a + b, with another W, and everything here holds of the model that it makes. Embeddings and the
head stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

# Importing torch takes seconds, and configs name what is here before they need it.
if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

Quantization = Literal["8bit", "4bit"]
BLOCK = 64
"""Weights that share a scale, of 4 bits."""
_BYTES = {"8bit": 1.0, "4bit": 0.5 + 4 / BLOCK}
"""Of a weight, with its share of a scale."""


def check_quantization(kind: str | None) -> None:
    """Raise ValueError unless weights can be kept so."""
    if kind is not None and kind not in get_args(Quantization):
        raise ValueError(f"quantization {kind!r}; choose from {', '.join(get_args(Quantization))}")


def quantize(model: PreTrainedModel, kind: Quantization, device: torch.device) -> None:
    """Keep the weights of linear modules so, and bring all of the model to a device.

    One weight at a time is there as it was.

    Raises:
        ValueError: If there are none.
    """
    from kn_sweeps.models.kept_weights import keep

    every = list(_linear(model))
    if not every:
        raise ValueError(f"it has no weights that model.quantization={kind} is for")
    for module in every:
        module.to(device)
        keep(module, kind)
    model.to(device)  # type: ignore[arg-type]


def quantization_of(model: nn.Module) -> Quantization | None:
    """How a model's weights are kept."""
    return next((kind for one in model.modules() if (kind := kept_as(one)) is not None), None)


def kept_as(module: nn.Module) -> Quantization | None:
    """How a module's weight is kept."""
    kind: Quantization | None = getattr(module, "kept_as", None)
    return kind


def dequantize(model: nn.Module) -> None:
    """Have plain weights instead, in place; there is no way back."""
    from kn_sweeps.models.kept_weights import let_go

    for module in model.modules():
        if kept_as(module) is not None:
            let_go(module)


def bytes_of(model: nn.Module, kind: Quantization | None) -> int:
    """What the weights of a model that is as it was before take when they are kept so."""
    every: dict[int, float] = {
        id(one): one.numel() * one.element_size() for one in model.parameters()
    }
    if kind is not None:
        for module in _linear(model):
            every[id(module.weight)] = module.weight.numel() * _BYTES[kind]
    return round(sum(every.values()))


def _linear(model: Any) -> Iterator[nn.Linear]:
    """The modules whose weights can be quantised."""
    from torch import nn

    head = model.get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            yield module
