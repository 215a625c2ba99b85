"""Attention whose keys and values are seen, and may be replaced, by whoever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from kn_sweeps.models.devices import home_of, sent
from kn_sweeps.models.language_model import LanguageModel

KeyValue = tuple[Tensor, Tensor]

SeenBy = Callable[[Tensor, Tensor, Tensor | None], KeyValue]
"""Takes keys, values and the mask: true where a query sees a key, None where only later ones are
hidden of a causal LM, and nothing of a masked one."""

_seen_by: ContextVar[SeenBy] = ContextVar("_seen_by")
_ATTENTION = "kn_sweeps"


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention whose keys and values are seen, and may be replaced, by whoever runs the model."""
    home = home_of(module) or key.device
    seen = _seen_by.get()(*sent((key, value, mask), home))
    key, value = sent(seen, key.device)
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    return output


AttentionInterface.register(_ATTENTION, _attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


@contextmanager
def attending(lm: LanguageModel, seen_by: SeenBy) -> Iterator[None]:
    """Let `seen_by` see, and replace, the keys and values of every attention in the block."""
    config = lm.model.config
    before = config._attn_implementation
    token = _seen_by.set(seen_by)
    config._attn_implementation = _ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before
        _seen_by.reset(token)
