"""The optimisation of ROME's value in the way of its published code, which EasyEdit keeps.

One edit at a time; a step is one forward pass of all contexts and the essence, whole rows in one
padded batch through the whole model with the logits of every token, and one backward pass. The
formulas are those of `rome.optimise_delta`. Causal LMs only. The pass before the steps stands for
that in which the code reads keys: what the divergence is from, it takes from its first step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .rome import Essence, Prompt, Settings


@dataclass(frozen=True)
class Optimised:
    """What came of it, and how many passes of the batch it took."""

    delta: Tensor
    forward: int
    backward: int


def published_delta(
    model: nn.Module,
    projection: nn.Module,
    contexts: Sequence[Prompt],
    target_ids: Sequence[int],
    essence: Essence,
    settings: Settings,
) -> Optimised:
    """Find delta by Adam; arguments as in `rome.rome`."""
    rows = [row for context in contexts for row in context.rows(target_ids)]
    subjects = [*(context.subject_last for context in contexts), essence.subject_last]
    every = [*(row.ids[0] for row in rows), essence.ids[0]]
    ids = nn.utils.rnn.pad_sequence(every, batch_first=True)
    lengths = torch.tensor([len(one) for one in every])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    at = (range(len(every)), subjects)
    before: list[Tensor] = []
    forward = backward = 0
    delta: Tensor | None = None

    def moved(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not before:
            before.append(output[0, subjects[0]].detach().clone())
        if delta is None:
            return output
        changed = output.clone()
        changed[at] += delta
        return changed

    def predicted() -> Tensor:
        return torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits, dim=-1)

    handle = projection.register_forward_hook(moved)
    try:
        with torch.no_grad():
            log_before = predicted()[-1, essence.read_at]
        forward += 1
        size = before[0].norm()
        delta = torch.zeros_like(before[0], requires_grad=True)
        adam = torch.optim.Adam([delta], lr=settings.lr)
        for step in range(settings.steps):
            log_probs = predicted()
            forward += 1
            nlls = [
                -log_probs[n, list(row.positions), list(row.tokens)].mean()
                for n, row in enumerate(rows)
            ]
            log_now = log_probs[-1, essence.read_at]
            loss = torch.stack(nlls).mean() + settings.weight_decay * delta.norm() / size**2
            loss = loss + settings.kl_factor * (log_now.exp() * (log_now - log_before)).sum()
            if loss < settings.early_stop or step == settings.steps - 1:
                break
            (delta.grad,) = torch.autograd.grad(loss, [delta])
            backward += 1
            adam.step()
            with torch.no_grad():
                delta *= min(1.0, float(settings.clamp_norm * size / delta.norm()))
    finally:
        handle.remove()
    return Optimised(delta.detach(), forward, backward)
