"""Many small optimisations side by side, each by Adam and each ending by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kn_sweeps.progress.counting import counted


def descend(
    variables: Sequence[Tensor],
    losses: Callable[[Sequence[int]], Float[Tensor, " going"]],
    constrain: Callable[[Sequence[int]], None],
    *,
    steps: int,
    learning_rate: float,
    enough: float,
    told: str,
    judged: bool = False,
) -> dict[int, str]:
    """Minimise a loss for every variable, from where it is; all in one pass a step.

    A variable whose loss is below `enough` stays as it is from then on, and leaves the pass: what
    it comes to does not depend on which others are optimised beside it.

    Args:
        variables: What is changed, in place; each requires a gradient.
        losses: The losses of the variables with these numbers, each of its own variable only.
        constrain: Is called behind a step, with the numbers of those that took it.
        steps: Steps at most.
        learning_rate: Adam's.
        enough: Where a loss is low enough.
        told: What a step is called where progress is told.
        judged: Whether losses are taken behind the last step too, to see what diverged with it.

    Returns:
        By number, what diverged: that its loss was not finite, and when. It stays as it is, too.
    """
    adam = torch.optim.Adam(list(variables), lr=learning_rate)
    diverged: dict[int, str] = {}
    going = list(range(len(variables)))
    for step in counted(range(steps + judged), told):
        now = losses(going)
        stay = []
        for at, loss in enumerate(now.tolist()):
            if not math.isfinite(loss):
                diverged[going[at]] = f"the loss became {loss} at step {step}"
            elif loss >= enough:
                stay.append(at)
        if not stay or step == steps:
            break
        going = [going[at] for at in stay]
        gradients = torch.autograd.grad(now[stay].sum(), [variables[number] for number in going])
        # A stopped one must have no gradient at all: with one of 0, Adam's momentum moves it on.
        adam.zero_grad()
        for number, gradient in zip(going, gradients, strict=True):
            variables[number].grad = gradient
        adam.step()
        constrain(going)
    return diverged
