"""Linear modules whose weight is made when it is asked for, of what is kept of it (`quantized`)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kn_sweeps.models.quantized import BLOCK, Quantization

LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)
"""NF4's: quantiles of the normal distribution, with 0 among them, as shares of a block's scale."""


class _Kept(nn.Linear):
    """A linear module without a weight of its own."""

    kept_as: ClassVar[Quantization]
    codes: Tensor
    scales: Tensor
    dtype: torch.dtype

    @property
    def weight(self) -> Float[Tensor, "out in"]:  # type: ignore[override]
        """The numbers that are computed with, anew each time."""
        return self._made().to(self.dtype)

    def _made(self) -> Float[Tensor, "out in"]:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        found: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return found


class _Eight(_Kept):
    kept_as = "8bit"

    def _made(self) -> Float[Tensor, "out in"]:
        return self.codes * self.scales


class _Four(_Kept):
    kept_as = "4bit"

    def _made(self) -> Float[Tensor, "out in"]:
        pairs = torch.stack((self.codes >> 4, self.codes & 15), dim=-1)
        levels = torch.tensor(LEVELS, device=pairs.device)[pairs.flatten().int()]
        numbers = (levels.view(-1, BLOCK) * self.scales).flatten()
        shape = self.out_features, self.in_features
        return numbers[: shape[0] * shape[1]].view(shape)


class _Product(torch.autograd.Function):
    """W x + b, which keeps no W for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, module: _Kept) -> Tensor:
        ctx.module = module
        return nn.functional.linear(x, module.weight, module.bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.module.weight, None


@torch.no_grad()
def keep(module: nn.Linear, kind: Quantization) -> None:
    """Keep a module's weight so, in place."""
    weight, dtype = module.weight.detach().float(), module.weight.dtype
    if kind == "8bit":
        scales = weight.abs().amax(1, keepdim=True) / 127
        codes = (weight / _nonzero(scales)).round().to(torch.int8)
    else:
        flat = weight.flatten()
        blocks = nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
        scales = blocks.abs().amax(1, keepdim=True)
        levels = torch.tensor(LEVELS, device=weight.device)
        nearest = torch.bucketize(blocks / _nonzero(scales), (levels[1:] + levels[:-1]) / 2)
        first, second = nearest.to(torch.uint8).view(-1, 2).T
        codes = first << 4 | second
    del module.weight
    module.__class__ = _Eight if kind == "8bit" else _Four
    module.register_buffer("codes", codes, persistent=False)
    module.register_buffer("scales", scales, persistent=False)
    module.dtype = dtype  # type: ignore[assignment]


def let_go(module: nn.Module) -> None:
    """Let a module have the weight that it computes with."""
    assert isinstance(module, _Kept)
    weight: Tensor = module.weight
    del module.codes, module.scales, module.dtype
    setattr(module, "__class__", nn.Linear)  # noqa: B010
    module.register_parameter("weight", nn.Parameter(weight, requires_grad=False))


def _nonzero(scales: Tensor) -> Tensor:
    """A row or block of zeros is kept as such."""
    return torch.where(scales == 0, torch.ones_like(scales), scales)
