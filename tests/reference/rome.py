"""One rank-one edit of an MLP output projection (ROME), causal or masked.

Formulas, with x_j the contexts (x_0 the bare prompt) and s_j the subject's last token in x_j:
    k* = mean_j key(x_j, s_j)                 key: the input of the projection
    v* = v0 + delta,  v0 = W k0 + b           k0 = key(x_0, s_0)
    delta minimises, by Adam from 0,
        mean_j -(1/n) sum_i log P(new_i | x_j, new_<i; delta)
        + kl_factor * KL(p_now || p_before)   next-token distributions of the essence prompt
        + weight_decay * |delta| / |v0|^2
    W' = W + (v* - (W k + b)) (C^-1 k*)^T / (k^T C^-1 k*)
``key_mode`` "mean": k = k*. "original": k = k0, as published (its denominator mixes k0 and k*).
delta is added to the projection's output at s_j in every context, and in the essence prompt.

Source: Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 3.1, and its
published code, of which these details are kept:
    - log P(new) is the *mean* over the target's tokens, not the sum.
    - F.kl_div(log p_before, log p_now, log_target=True) is KL(p_now || p_before), as in eq. 4.
    - The weight decay is on |delta|, not on its square.
    - The loss is evaluated ``steps`` times, and delta updated at most ``steps - 1`` times: nothing
      follows the last evaluation, nor one whose loss is below ``early_stop``.
    - After each update, delta is shortened to clamp_norm * |v0| if it is longer.
Deviations: the caller says where the essence prompt is read (published: the subject's last token).
A masked LM reads contexts left to right, one row a target piece; its keys have all pieces masked.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .reading import Row, causal_rows, masked_rows


@dataclass(frozen=True)
class Prompt:
    """A prompt without its answer.

    Attributes:
        ids: Shape (1, seq). A masked LM's holds one mask a target token.
        subject_last: Position of the subject's last token, from 0.
        mask_positions: Where the masks are; empty for a causal LM.
    """

    ids: Tensor
    subject_last: int
    mask_positions: tuple[int, ...] = ()

    def rows(self, target_ids: Sequence[int]) -> list[Row]:
        """The rows that read the target after this prompt."""
        if self.mask_positions:
            return masked_rows(self.ids, self.mask_positions, target_ids)
        return causal_rows(self.ids, target_ids)


@dataclass(frozen=True)
class Essence:
    """The prompt whose next-token distribution at ``read_at`` must not move; ids as in Prompt."""

    ids: Tensor
    subject_last: int
    read_at: int


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters, named as in the formulas; ``steps`` counts evaluations of the loss."""

    steps: int
    lr: float = 0.5
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    clamp_norm: float = 4.0
    early_stop: float = 0.05
    key_mode: Literal["mean", "original"] = "mean"


@dataclass(frozen=True)
class Edit:
    """dW = outer(v, u), and its parts: u and keys have shape (d_ff,), all others (d_model,)."""

    u: Tensor
    v: Tensor
    delta: Tensor
    v_star: Tensor
    v0: Tensor
    mean_key: Tensor
    bare_key: Tensor
    losses: list[float]


def rome(
    model: nn.Module,
    projection: nn.Module,
    contexts: Sequence[Prompt],
    target_ids: Sequence[int],
    essence: Essence,
    settings: Settings,
    second_moment: Tensor | None = None,
) -> Edit:
    """Plan one edit; the model is left as it was.

    Args:
        model: A causal or masked LM in evaluation mode.
        projection: The MLP output projection of the layer to edit.
        contexts: The bare prompt first, then the prompt behind each prefix.
        target_ids: The new answer's token ids.
        essence: "SUBJECT is a", for the KL term.
        settings: Hyper-parameters.
        second_moment: C, shape (d_ff, d_ff); None is the identity.

    Returns:
        The update and its parts.
    """
    keys = [subject_key(model, projection, context) for context in contexts]
    mean_key, bare_key = torch.stack(keys).mean(dim=0), keys[0]
    with torch.no_grad():
        v0 = projection(bare_key.unsqueeze(0))[0]
    delta, losses = optimise_delta(model, projection, v0, contexts, target_ids, essence, settings)
    v_star = v0 + delta
    key = mean_key if settings.key_mode == "mean" else bare_key
    u, v = solve(projection, key, mean_key, v_star, second_moment)
    return Edit(u, v, delta, v_star, v0, mean_key, bare_key, losses)


@torch.no_grad()
def subject_key(model: nn.Module, projection: nn.Module, prompt: Prompt) -> Tensor:
    """The projection's input at the subject's last token, shape (d_ff,)."""
    seen: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    try:
        model(prompt.ids)
    finally:
        handle.remove()
    return seen[0][0, prompt.subject_last].clone()


def optimise_delta(
    model: nn.Module,
    projection: nn.Module,
    v0: Tensor,
    contexts: Sequence[Prompt],
    target_ids: Sequence[int],
    essence: Essence,
    settings: Settings,
) -> tuple[Tensor, list[float]]:
    """Find delta by Adam, as in the module's formulas.

    Returns:
        delta, shape (d_model,), and the loss at each evaluation; the last belongs to this delta.
    """
    delta = torch.zeros_like(v0, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=settings.lr)
    with torch.no_grad():
        log_before = torch.log_softmax(model(essence.ids).logits[0, essence.read_at], dim=-1)

    losses: list[float] = []
    for step in range(settings.steps):
        nlls = [_target_nll(model, projection, context, target_ids, delta) for context in contexts]
        with _added(projection, essence.subject_last, delta):
            log_now = torch.log_softmax(model(essence.ids).logits[0, essence.read_at], dim=-1)
        divergence = (log_now.exp() * (log_now - log_before)).sum()
        decay = delta.norm() / v0.norm() ** 2
        loss = torch.stack(nlls).mean() + settings.kl_factor * divergence
        loss = loss + settings.weight_decay * decay
        losses.append(loss.item())
        if loss < settings.early_stop or step == settings.steps - 1:
            break
        (delta.grad,) = torch.autograd.grad(loss, [delta])
        adam.step()
        longest = settings.clamp_norm * v0.norm()
        with torch.no_grad():
            if delta.norm() > longest:
                delta.mul_(longest / delta.norm())
    return delta.detach(), losses


@torch.no_grad()
def solve(
    projection: nn.Module,
    key: Tensor,
    mean_key: Tensor,
    v_star: Tensor,
    second_moment: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The rank-one update after which the projection maps ``key`` to ``v_star``: W' key + b = v*.

    Args:
        projection: Holds W and b.
        key: k of the formula, shape (d_ff,).
        mean_key: k* of the formula, shape (d_ff,).
        v_star: Shape (d_model,).
        second_moment: C, shape (d_ff, d_ff); None is the identity.

    Returns:
        u = C^-1 k* / (k^T C^-1 k*) and v = v* - (W k + b), so that dW = outer(v, u).
    """
    direction = mean_key if second_moment is None else torch.linalg.solve(second_moment, mean_key)
    u = direction / (key @ direction)
    v = v_star - projection(key.unsqueeze(0))[0]
    return u, v


@torch.no_grad()
def apply_in_place(weight: Tensor, u: Tensor, v: Tensor, transposed: bool) -> None:
    """Add dW = outer(v, u) to a weight.

    Args:
        weight: Shape (d_model, d_ff), or (d_ff, d_model) if transposed.
        u: Shape (d_ff,).
        v: Shape (d_model,).
        transposed: True for GPT-2's Conv1D (x W + b), False for nn.Linear (x W^T + b).
    """
    weight += torch.outer(u, v) if transposed else torch.outer(v, u)


def _target_nll(
    model: nn.Module,
    projection: nn.Module,
    prompt: Prompt,
    target_ids: Sequence[int],
    delta: Tensor,
) -> Tensor:
    """-(1/n) sum_i log P(new_i) for one context, with delta added at its subject's last token."""
    log_probs = []
    for row in prompt.rows(target_ids):
        with _added(projection, prompt.subject_last, delta):
            logits = model(row.ids).logits[0]
        for position, token in zip(row.positions, row.tokens, strict=True):
            log_probs.append(torch.log_softmax(logits[position], dim=-1)[token])
    return -torch.stack(log_probs).mean()


@contextmanager
def _added(projection: nn.Module, position: int, delta: Tensor) -> Iterator[None]:
    """Add delta to the projection's output at one position while the block runs."""

    def add(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        moved = output.clone()
        moved[:, position] += delta
        return moved

    handle = projection.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
