"""Hooks on a model's modules, which are gone when the block that made them is left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from kn_sweeps.models.devices import home_of, input_at_home, output_at_home


class Hooks(ExitStack):
    """Hooks that are taken away when the block is left, whatever is raised inside.

    Each is in place from the moment it is added, so that one which cannot be added leaves none of
    those before it behind. Of a model on several devices, each gets and gives tensors at its home.
    """

    def on_output(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, output)` behind `module`; what it returns is its output."""
        home = home_of(module)
        hook = hook if home is None else output_at_home(hook, home)
        self.callback(module.register_forward_hook(hook).remove)

    def on_input(
        self, module: nn.Module, hook: Callable[..., Any], *, with_kwargs: bool = False
    ) -> None:
        """Call `hook(module, args)` before `module`; what it returns are its arguments.

        Args:
            module: Where.
            hook: What to call.
            with_kwargs: Whether it is called, and returns, with keyword arguments as well.
        """
        home = home_of(module)
        hook = hook if home is None else input_at_home(hook, home)
        handle = module.register_forward_pre_hook(hook, with_kwargs=with_kwargs)
        self.callback(handle.remove)


def first_of(output: Any) -> Tensor:
    """What a module puts out, where that may be the first of several things."""
    tensor: Tensor = output if isinstance(output, Tensor) else output[0]
    return tensor
