"""BLiMP accuracy of a causal LM, written plainly: a sentence at a time, without padding or cache.

    accuracy = share of pairs with log P(good) > log P(bad),   log P(s) = sum_i log P(s_i | s_<i)

The first token is read behind the start token. Source: Warstadt et al. (2020), *BLiMP*, section 4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def pairs_of(file: Path, count: int) -> list[tuple[str, str]]:
    """The first pairs (good, bad) of a paradigm's JSON lines."""
    lines = file.read_text(encoding="utf-8").splitlines()[:count]
    return [(one["sentence_good"], one["sentence_bad"]) for one in map(json.loads, lines)]


@torch.no_grad()
def log_prob(
    model: Callable[..., Any], tokenize: Callable[[str], list[int]], start: int, sentence: str
) -> float:
    """Log P of a whole sentence (nats)."""
    ids = torch.tensor([[start, *tokenize(sentence)]])
    log_probs = model(ids).logits[0, :-1].float().log_softmax(-1)
    return float(log_probs[torch.arange(ids.shape[1] - 1), ids[0, 1:]].double().sum())


def accuracy(
    model: Callable[..., Any],
    tokenize: Callable[[str], list[int]],
    start: int,
    pairs: Sequence[tuple[str, str]],
) -> float:
    """Share of pairs whose good sentence is likelier."""
    right = [
        log_prob(model, tokenize, start, good) > log_prob(model, tokenize, start, bad)
        for good, bad in pairs
    ]
    return sum(right) / len(right)
