"""Modules that put out what they do in the unchanged model, whatever reaches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

from jaxtyping import Int
from torch import Tensor, nn

from kn_sweeps.models.hooks import Hooks
from kn_sweeps.models.language_model import LanguageModel

Frozen = Literal["nothing", "attention", "attention and MLPs"]
"""What is frozen: with attention, neurons act through later MLPs and directly; with MLPs too,
directly alone."""


class Freezing:
    """Some rows' outputs of frozen modules: recorded once, put out again under any change.

    What attention and MLPs in other layers than a changed one put out is then constant, so that
    the change reaches the end of the residual stream as it is, but for the norms it passes.
    """

    def __init__(self, lm: LanguageModel, frozen: Frozen) -> None:
        """Say what is frozen.

        Raises:
            ValueError: If `frozen` is not among what can be.
        """
        if frozen not in get_args(Frozen):
            raise ValueError(f"frozen {frozen!r}; choose from {', '.join(get_args(Frozen))}")
        architecture, layers = lm.architecture, range(lm.architecture.layers)
        self._modules: list[nn.Module] = []
        if frozen != "nothing":
            self._modules += map(architecture.attention_output, layers)
        if frozen == "attention and MLPs":
            self._modules += map(architecture.mlp_output, layers)
        self._outputs: dict[nn.Module, Tensor] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep what modules put out inside, which depends on nothing before it from then on."""

        def keep(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            self._outputs[module] = output.detach()
            return _cut(output)

        with self._hooked(keep):
            yield

    @contextmanager
    def frozen(self, rows: Int[Tensor, " rows"]) -> Iterator[None]:
        """Let modules put out what they did for the recorded `rows`.

        Args:
            rows: For each row of the batch inside; where it has fewer rows, the first of them.
        """

        def put(module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            # A batch of shorter rows is padded to less.
            return self._outputs[module][rows[: len(output)], : output.shape[1]]

        with self._hooked(put):
            yield

    @contextmanager
    def _hooked(self, hook: Callable[..., Tensor]) -> Iterator[None]:
        with Hooks() as hooks:
            for module in self._modules:
                hooks.on_output(module, hook)
            yield


@contextmanager
def without_gradients(lm: LanguageModel, layer: int) -> Iterator[None]:
    """Let what a layer's attention and MLP put out be constant to gradients; values stay."""
    with Hooks() as hooks:
        for module in (lm.architecture.attention_output(layer), lm.architecture.mlp_output(layer)):
            hooks.on_output(module, lambda _module, _args, output: _cut(output))
        yield


def _cut(output: Tensor) -> Tensor:
    """The same as a leaf of its own: it may have a gradient, but passes none on."""
    return output.detach().requires_grad_(output.requires_grad)
