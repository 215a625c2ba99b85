"""Randomness that depends on what is drawn for, never on the order in which it is drawn."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: the same whatever was drawn before."""
    text = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose."""
    import torch  # slow, and what composes and reads runs needs none

    return torch.Generator().manual_seed(seed_for(seed, *purpose))


def shuffler(seed: int, *purpose: str | int) -> random.Random:
    """A Python generator for one purpose, for shuffling and choosing."""
    return random.Random(seed_for(seed, *purpose))
