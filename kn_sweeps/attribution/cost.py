"""What finding neurons costs: passes of the model, and seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from kn_sweeps.models.hooks import Hooks, first_of
from kn_sweeps.models.language_model import LanguageModel


@dataclass
class Cost:
    """What was run in a block.

    Attributes:
        forward: Tokens that went through blocks, each divided by the number of blocks: a row of
            ten tokens through all of them is 10, as are two such rows through half of them.
        backward: The same of those whose gradients were kept.
        seconds: By the wall's clock.
    """

    forward: float = 0.0
    backward: float = 0.0
    seconds: float = 0.0


@contextmanager
def cost_of(lm: LanguageModel) -> Iterator[Cost]:
    """Count what the model's blocks do inside; complete once it is left."""
    cost = Cost()
    blocks = lm.architecture.blocks

    def count(_block: nn.Module, _args: Any, output: Any) -> None:
        hidden = first_of(output)
        tokens = hidden.shape[0] * hidden.shape[1] / len(blocks)
        cost.forward += tokens
        cost.backward += tokens * hidden.requires_grad

    begun = time.perf_counter()
    try:
        with Hooks() as hooks:
            for block in blocks:
                hooks.on_output(block, count)
            yield cost
    finally:
        cost.seconds = time.perf_counter() - begun
