"""Double precision for a while, where single precision cannot tell what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel


@contextmanager
def in_double(model: PreTrainedModel, *, whole: bool = False) -> Iterator[None]:
    """Compute in float64 inside the block; float32 weights are the same again afterwards.

    Memory: a weight is double for as long as something is computed with it, one at a time, and
    is made so again for gradients; embeddings are looked up in float32. Activations take twice
    their size.

    Args:
        model: In float32.
        whole: Whether all weights are double at once: faster, with three times the memory.
            The float32 ones are kept: at another address products round otherwise.

    Raises:
        ValueError: If the model is not in float32: half precision would be another model.
    """
    if model.dtype != torch.float32:
        raise ValueError(f"only a float32 model can be computed in double, not {model.dtype}")
    kept = [(one, one.data) for one in model.parameters() if _is_single(one)] if whole else []
    try:
        for weight, data in kept:
            weight.data = data.double()
        mode = _Double(model)
        with mode, torch.autograd.graph.saved_tensors_hooks(mode.pack, _unpacked):
            yield
    finally:
        for weight, data in kept:
            weight.data = data


class _Again(NamedTuple):
    """A view of a weight in double, that can be made again."""

    weight: Tensor
    size: torch.Size
    stride: tuple[int, ...]
    offset: int | torch.SymInt


def _unpacked(kept: Tensor | _Again) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    # Every float32 number is a double, so it is the same one again.
    return kept.weight.double().as_strided(kept.size, kept.stride, kept.offset)


_TELLS = {"size", "dim", "numel", "stride", "is_contiguous", "untyped_storage", "data_ptr"}
"""What asks of a weight nothing that takes its numbers."""
_DTYPE, _TURNED = Tensor.dtype.__get__, Tensor.T.__get__  # type: ignore[attr-defined]
_MULTIPLIES = (nn.functional.linear, torch.addmm)
"""What most weights are for; nothing it gives is a view of one."""


class _Double(TorchFunctionMode):
    """Compute with weights in double, and undo the casts to float32 that norms and softmaxes make.

    Those are made for the sake of half precision.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self._buffers = {id(one) for one in model.buffers() if one.dtype == torch.float32}
        self._wide: list[tuple[Tensor, Tensor]] = []
        self._room: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],  # noqa: ARG002
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is nn.functional.embedding:
            found = func(*args, **kwargs)
            return found.double() if found.dtype == torch.float32 else found
        if self._of_model(args[0] if args else None):
            if func == _DTYPE:
                return torch.float64
            name = getattr(func, "__name__", "")
            if name in _TELLS or (name == "__get__" and func != _TURNED):
                return func(*args, **kwargs)
        self._wide = []
        try:
            again = func in _MULTIPLIES
            args = [self._widened(one, again=again) for one in args]
            kwargs = {name: self._widened(one, again=again) for name, one in kwargs.items()}
            tensor = args[0] if args else None
            if isinstance(tensor, Tensor) and tensor.dtype == torch.float64:
                if func is Tensor.float:
                    return tensor
                if func is Tensor.to:
                    args = [torch.float64 if x is torch.float32 else x for x in args]
                if kwargs.get("dtype") is torch.float32:
                    kwargs["dtype"] = torch.float64
            return func(*args, **kwargs)
        finally:
            self._wide = []

    def _of_model(self, x: Any) -> bool:
        if not isinstance(x, Tensor):
            return False
        return id(x) in self._buffers or (isinstance(x, nn.Parameter) and _is_single(x))

    def _widened(self, x: Any, *, again: bool) -> Any:
        """A weight in double; `again` in the room that the last one had, as far as it is one."""
        if not self._of_model(x):
            return x
        wide = self._in_room(x) if again and x.dim() > 1 and x.is_contiguous() else x.double()
        self._wide.append((wide, x))
        return wide

    def _in_room(self, x: Tensor) -> Tensor:
        # What is kept for gradients would lie in the gaps between freed weights, and pin them.
        if self._room is None or self._room.numel() < x.numel() or self._room.device != x.device:
            self._room = torch.empty(x.numel(), dtype=torch.float64, device=x.device)
        return self._room[: x.numel()].view(x.shape).copy_(x)

    def pack(self, tensor: Tensor) -> Tensor | _Again:
        """Keep a weight for its gradient by what it was made of."""
        for wide, weight in self._wide:
            if tensor.data_ptr() == wide.data_ptr() and wide.stride() == weight.stride():
                return _Again(weight, tensor.size(), tensor.stride(), tensor.storage_offset())
        return tensor


def _is_single(x: Tensor) -> bool:
    return x.dtype == torch.float32


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision becomes float32; double stays double."""
    return x if x.dtype == torch.float64 else x.float()
