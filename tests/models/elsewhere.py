"""Devices that this machine does not have: tensors that say they are there, and compute here.

What mixes them raises, as on real ones. Their numbers are those of the CPU, but for rounding where
PyTorch has one kernel for several steps on the CPU and none elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

CPU = torch.device("cpu")


class Elsewhere(Tensor):
    """A tensor on a device that is not there."""

    inner: Tensor

    @staticmethod
    def __new__(
        cls, inner: Tensor, device: torch.device | None = None, *, requires_grad: bool = False
    ) -> Any:
        if device is None:  # as accelerate makes a weight again, by its class
            return torch.nn.Parameter(inner, requires_grad)
        inner = inner.inner if isinstance(inner, Elsewhere) else inner
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
            requires_grad=False,
        )
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Made(TorchDispatchMode):
    """Lets tensors be made on such devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, _ = tree_flatten((args, kwargs))
    tensors = [x for x in flat if isinstance(x, Tensor)]
    # Single numbers go anywhere, and indices may be on the CPU.
    indexing = "index" in func.__name__
    placed = {x.device for x in tensors if x.dim() and not (indexing and x.device == CPU)}
    asked = kwargs.get("device")
    moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if len(placed) > 1 and not moves:
        raise RuntimeError(f"{func}: tensors are on {sorted(map(str, placed))}")
    away = [x.device for x in tensors if isinstance(x, Elsewhere)]
    device = torch.device(asked) if asked is not None else away[0] if away else CPU
    if func is torch.ops.aten.copy_.default:
        device = args[0].device
    if asked is not None and device.type != "meta":
        kwargs = {**kwargs, "device": CPU}
    args, kwargs = tree_map(lambda x: x.inner if isinstance(x, Elsewhere) else x, (args, kwargs))
    found = func(*args, **kwargs)
    if device.type in ("cpu", "meta"):
        return found
    return tree_map(lambda x: Elsewhere(x, device) if isinstance(x, Tensor) else x, found)


_LIBRARY = torch.library.Library("aten", "IMPL")


@cache
def _register() -> None:
    """Let PyTorch know the name, and where tensors of plain numbers are made."""
    _setup_privateuseone_for_python_backend("elsewhere")
    for name, make in (
        ("empty.memory_format", torch.empty),
        ("empty_strided", torch.empty_strided),
    ):
        _LIBRARY.impl(name, partial(_empty, make), "PrivateUse1")
    _LIBRARY.impl("_copy_from", _copied, "PrivateUse1")


def _empty(make: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Elsewhere:
    dtype = kwargs.get("dtype")
    return Elsewhere(make(*args, dtype=dtype), torch.device(kwargs["device"]))


def _copied(source: Tensor, to: Elsewhere, *_: Any) -> Elsewhere:
    to.inner.copy_(source)
    return to


@contextmanager
def devices() -> Iterator[None]:
    """Let tensors be made and moved to elsewhere:0 and elsewhere:1 inside the block."""
    _register()
    with _Made(), torch.autograd.set_multithreading_enabled(False):
        yield
