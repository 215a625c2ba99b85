"""Double precision for a while, where single precision cannot tell what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel


@contextmanager
def in_double(model: PreTrainedModel) -> Iterator[None]:
    """Compute in float64 inside the block; float32 weights are the same again afterwards.

    Memory: the model takes twice its size meanwhile.

    Raises:
        ValueError: If the model is not in float32: half precision would be another model.
    """
    if model.dtype != torch.float32:
        raise ValueError(f"only a float32 model can go to double and back, not {model.dtype}")
    try:
        model.double()
        with _StayDouble():
            yield
    finally:
        # Every float32 number is a double, so this is exact.
        model.float()


class _StayDouble(TorchFunctionMode):
    """Undo the casts to float32 that norms and softmaxes make for the sake of half precision."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # noqa: ARG002
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensor = args[0] if args else None
        if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
            if func is Tensor.float:
                return tensor
            if func is Tensor.to:
                args = [torch.float64 if x is torch.float32 else x for x in args]
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; double stays double."""
    return x if x.dtype == torch.float64 else x.float()
