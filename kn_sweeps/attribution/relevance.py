"""Gradients that are the coefficients of layer-wise relevance propagation.

Inside `relevance_rules` the model computes what it always does, and what goes backward through it
goes by these rules:

- a norm divides by a constant (the LN rule);
- an activation function f is a multiplication by f(x) / x (the identity rule);
- of a product of an activation and a gate, each of the two gets half (the half rule);
- an attention pattern is a constant (the AH rule).

Source: Rezaei Jafari et al. (2025), *RelP: Faithful and Efficient Circuit Discovery via Relevance
Patching*; Achtibat et al. (2024) for the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kn_sweeps.attribution.lens import scale_of
from kn_sweeps.models.hooks import Hooks
from kn_sweeps.models.language_model import LanguageModel

_SOFTMAXES = (torch.softmax, torch.Tensor.softmax, nn.functional.softmax)


@contextmanager
def relevance_rules(lm: LanguageModel) -> Iterator[None]:
    """Let gradients inside be coefficients of relevance propagation.

    Raises:
        ValueError: If a rule finds nothing in a layer to act on, or what it does not hold for.
    """
    rules = _Rules(lm)
    patterns = _ConstantPatterns()
    with Hooks() as hooks, patterns:
        for module in lm.model.modules():
            if "Norm" in type(module).__name__:
                hooks.on_output(module, rules.norm)
            elif next(module.parameters(), next(module.children(), None)) is None:
                hooks.on_output(module, rules.activation)
        for layer, block in enumerate(lm.architecture.blocks):
            hooks.on_input(block, lambda _m, _args: rules.activated.clear())
            hooks.on_input(lm.architecture.mlp_output(layer), partial(rules.gate, layer))
            hooks.on_output(block, partial(patterns.check, lm.name, layer))
        yield


def check_rules(lm: LanguageModel) -> None:
    """Run the model under its rules once.

    Raises:
        ValueError: As `relevance_rules`.
    """
    with relevance_rules(lm), torch.no_grad():
        lm.hidden(lm.batch([(0, 1)]))


class _Rules:
    """What is done to the outputs of modules, whose values stay bit for bit."""

    def __init__(self, lm: LanguageModel) -> None:
        self._name = lm.name
        self._checked: set[nn.Module] = set()
        self.activated: list[Tensor] = []

    def norm(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Cancel the derivative of what the norm divides by."""
        x = args[0]
        nothing = module.forward(torch.zeros_like(x))
        scale = scale_of(module, x)
        if module not in self._checked:
            self._check(module, x.detach(), ((output - nothing) * scale).detach())
            self._checked.add(module)
        ratio = (scale / scale.detach() - 1).to(output.dtype)  # 0, with a gradient
        ruled: Tensor = output + (output - nothing).detach() * ratio
        return ruled

    @torch.no_grad()
    def _check(self, module: nn.Module, x: Tensor, linear: Tensor) -> None:
        twice = module.forward(2 * x) - module.forward(torch.zeros_like(x))
        off = (twice * scale_of(module, 2 * x) - 2 * linear).abs().amax()
        if not off <= 1e-2 * linear.abs().amax():
            raise ValueError(
                f"{self._name}: {type(module).__name__} is not linear but for what it divides by; "
                "choose another attribution than relp"
            )

    def activation(self, _module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Let an activation function be the multiplication that it amounts to."""
        if len(args) != 1 or not (isinstance(args[0], Tensor) and isinstance(output, Tensor)):
            return output
        x = args[0]
        if x.shape != output.shape or not x.is_floating_point():
            return output
        factor = torch.where(x == 0, torch.zeros_like(x), output / x).detach()
        self.activated.append(output.detach() + factor * (x - x.detach()))
        return self.activated[-1]

    def gate(self, layer: int, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Halve what goes back to the two factors of a neuron."""
        neurons = args[0]
        mine = [one for one in self.activated if one.shape == neurons.shape]
        if not mine:
            raise ValueError(
                f"{self._name}: layer {layer} has no activation function that could be told from "
                "the rest of its MLP; choose another attribution than relp"
            )
        if any(torch.equal(one, neurons) for one in mine):
            return args
        return (neurons.detach() + (neurons - neurons.detach()) / 2, *args[1:])


class _ConstantPatterns(TorchFunctionMode):
    """Attention patterns without a gradient, however they are computed."""

    def __init__(self) -> None:
        super().__init__()
        self._seen = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Detach queries and keys, or the pattern that is made of them."""
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            self._seen += 1
            query, key, *rest = args
            return func(query.detach(), key.detach(), *rest, **kwargs)
        if func in _SOFTMAXES:
            self._seen += 1
            return func(*args, **kwargs).detach()
        return func(*args, **kwargs)

    def check(self, name: str, layer: int, _block: nn.Module, _args: Any, _output: Any) -> None:
        """Refuse a layer whose pattern was not seen."""
        if not self._seen:
            raise ValueError(
                f"{name}: how layer {layer} attends cannot be told; choose another attribution "
                "than relp"
            )
        self._seen = 0
