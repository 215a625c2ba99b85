"""Log-probabilities, greedy answers, KL and pseudo-log-likelihood, one forward pass per token.

Formulas, in nats:
    log P(y | x) = sum_i log P(y_i | x, y_<i), with the gold prefix
    KL(p || q) = sum_i p_i (log p_i - log q_i)
    PLL(w) = sum_t log P(w_t | w without w_t)

Source: Salazar et al. 2020, "Masked Language Model Scoring", for the PLL. Its masks are one at a
time; a target's pieces (``masked_log_prob``) are masked together and revealed left to right.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def causal_log_prob(model: nn.Module, prompt_ids: Tensor, target_ids: Sequence[int]) -> list[float]:
    """Log P of each target token given the prompt and the gold tokens before it.

    Args:
        model: A causal LM.
        prompt_ids: Shape (1, seq), at least one token.
        target_ids: The target's token ids.

    Returns:
        One log-probability a target token, in nats.
    """
    ids = prompt_ids
    log_probs = []
    for token in target_ids:
        log_p = torch.log_softmax(model(ids).logits[0, -1], dim=-1)
        log_probs.append(log_p[int(token)].item())
        ids = torch.cat([ids, ids.new_tensor([[int(token)]])], dim=1)
    return log_probs


@torch.no_grad()
def masked_log_prob(
    model: nn.Module,
    ids_with_masks: Tensor,
    mask_positions: Sequence[int],
    target_ids: Sequence[int],
) -> list[float]:
    """Log P of each target piece: all masked at first, the gold piece revealed after each reading.

    Args:
        model: A masked LM.
        ids_with_masks: Shape (1, seq), a mask at each of ``mask_positions``. It is not changed.
        mask_positions: Ascending, from 0, one for each target token.
        target_ids: The target's token ids.

    Returns:
        One log-probability a target token, in nats.
    """
    ids = ids_with_masks.clone()
    log_probs = []
    for position, token in zip(mask_positions, target_ids, strict=True):
        log_p = torch.log_softmax(model(ids).logits[0, position], dim=-1)
        log_probs.append(log_p[int(token)].item())
        ids[0, position] = int(token)
    return log_probs


@torch.no_grad()
def causal_greedy(model: nn.Module, prompt_ids: Tensor, n: int) -> list[int]:
    """The n tokens that follow by taking the most probable one each time; no token ends it early.

    Args:
        model: A causal LM.
        prompt_ids: Shape (1, seq), at least one token.
        n: How many tokens.

    Returns:
        The n token ids.
    """
    ids = prompt_ids
    answer: list[int] = []
    for _ in range(n):
        token = int(model(ids).logits[0, -1].argmax())
        answer.append(token)
        ids = torch.cat([ids, ids.new_tensor([[token]])], dim=1)
    return answer


@torch.no_grad()
def masked_greedy(
    model: nn.Module, ids_with_masks: Tensor, mask_positions: Sequence[int]
) -> list[int]:
    """Fill the masks left to right, each with the most probable token given those filled before.

    Args:
        model: A masked LM.
        ids_with_masks: Shape (1, seq), a mask at each of ``mask_positions``. It is not changed.
        mask_positions: Ascending, from 0.

    Returns:
        One token id a mask.
    """
    ids = ids_with_masks.clone()
    answer: list[int] = []
    for position in mask_positions:
        token = int(model(ids).logits[0, position].argmax())
        answer.append(token)
        ids[0, position] = token
    return answer


def kl(p_logits: Tensor, q_logits: Tensor) -> float:
    """KL(p || q) of two next-token distributions.

    Args:
        p_logits: Shape (vocab,).
        q_logits: Shape (vocab,).

    Returns:
        Nats, at least 0 up to rounding.
    """
    log_p = torch.log_softmax(p_logits, dim=-1)
    log_q = torch.log_softmax(q_logits, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum().item()


@torch.no_grad()
def pseudo_log_likelihood(
    model: nn.Module, ids: Tensor, mask_id: int, special_positions: Collection[int]
) -> float:
    """Sum over the ordinary tokens of log P(token | all the others), that token alone masked.

    Args:
        model: A masked LM.
        ids: The full sentence, shape (1, seq), special tokens included.
        mask_id: The mask token's id.
        special_positions: Positions never scored and never masked ([CLS], [SEP]), from 0.

    Returns:
        The pseudo-log-likelihood, in nats.
    """
    total = 0.0
    for position in range(ids.shape[1]):
        if position in special_positions:
            continue
        masked = ids.clone()
        masked[0, position] = mask_id
        log_p = torch.log_softmax(model(masked).logits[0, position], dim=-1)
        total += log_p[ids[0, position]].item()
    return total
