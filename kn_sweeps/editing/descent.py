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
    shares: Sequence[float] = (1.0,),
) -> dict[int, str]:
    """Minimise a loss for every variable, from where it is; all in one pass a step.

    A variable whose loss is below `enough` stays as it is from then on, and leaves the pass: what
    it comes to does not depend on which others are optimised beside it. In an epoch of several
    steps it takes none where the step's loss is below, and stays as it is from the end of the
    epoch on whose mean loss is.

    Args:
        variables: What is changed, in place; each requires a gradient.
        losses: The losses of the variables with these numbers, each of its own variable only; one
            call a step.
        constrain: Is called behind a step, with the numbers of those that took it.
        steps: Steps at most.
        learning_rate: Adam's.
        enough: Where a loss is low enough.
        told: What a step is called where progress is told.
        judged: Whether losses are taken behind the last step too, to see what diverged with it.
        shares: Of an epoch's steps, each one's share of the epoch's mean loss; they add up to 1.

    Returns:
        By number, what diverged: that its loss was not finite, and when. It stays as it is, too.
    """
    adam = torch.optim.Adam(list(variables), lr=learning_rate)
    diverged: dict[int, str] = {}
    going = list(range(len(variables)))
    means = dict.fromkeys(going, 0.0)
    for step in counted(range(steps + judged), told):
        now = losses(going)
        at_end = (step + 1) % len(shares) == 0
        moving, staying = [], []
        for at, (number, loss) in enumerate(zip(going, now.tolist(), strict=True)):
            means[number] += loss * shares[step % len(shares)]
            if not math.isfinite(loss):
                diverged[number] = f"the loss became {loss} at step {step}"
                continue
            if loss >= enough:
                moving.append(at)
            if not at_end or means[number] >= enough:
                staying.append(number)
        if step == steps:
            break
        if moving:
            moved = [going[at] for at in moving]
            gradients = torch.autograd.grad(now[moving].sum(), [variables[one] for one in moved])
            # One that does not move must have no gradient: with one of 0, Adam's momentum moves it.
            adam.zero_grad()
            for number, gradient in zip(moved, gradients, strict=True):
                variables[number].grad = gradient
            adam.step()
            constrain(moved)
        going = staying
        if not going:
            break
        if at_end:
            means = dict.fromkeys(going, 0.0)
    return diverged
