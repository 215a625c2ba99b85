"""Modules that compute the same in another way, so that hooks see what they have to.

Of a module only the class is exchanged: its weights, their names and its submodules stay. `laws`
compares what the model gives with what it gives in its own classes (`as_written`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import LongTensor, Tensor, nn
from transformers import Cache
from transformers.models.falcon.modeling_falcon import FalconMLP
from transformers.models.opt.modeling_opt import OPTDecoderLayer

from kn_sweeps.models.devices import recast


class CopiedFalconMLP(FalconMLP):
    """Falcon's MLP with an output that nobody keeps: its block adds to it in place."""

    def forward(self, x: Tensor) -> Tensor:
        """The MLP's output."""
        return super().forward(x).clone()


class RowwiseOPTDecoderLayer(OPTDecoderLayer):
    """OPT's block whose MLP takes rows of tokens, not the tokens of all rows in one."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        position_ids: LongTensor | None = None,
        **more: Any,
    ) -> Tensor:
        """The block's output, (batch, seq, d_model)."""
        first = self.do_layer_norm_before
        attended = self.self_attn_layer_norm(hidden_states) if first else hidden_states
        attended, _ = self.self_attn(
            attended,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_ids=position_ids,
            **more,
        )
        states = hidden_states + attended
        if not first:
            states = self.self_attn_layer_norm(states)
        read = self.final_layer_norm(states) if first else states
        sums: Tensor = states + self.fc2(self.activation_fn(self.fc1(read)))
        return sums if first else self.final_layer_norm(sums)


_REWRITTEN: dict[type[nn.Module], type[nn.Module]] = {
    FalconMLP: CopiedFalconMLP,
    OPTDecoderLayer: RowwiseOPTDecoderLayer,
}


def rewrite(module: nn.Module) -> None:
    """Let `module` compute in the other way.

    Raises:
        ValueError: If there is none for its class.
    """
    kind = type(module)
    if kind in _REWRITTEN.values():
        return
    if kind not in _REWRITTEN:
        raise ValueError(f"no other way to compute {kind.__name__} is known")
    recast(module, _REWRITTEN[kind])


@contextmanager
def as_written(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Let rewritten modules compute in their own way inside the block."""
    own = {other: kind for kind, other in _REWRITTEN.items()}
    try:
        for module in modules:
            recast(module, own[type(module)])
        yield
    finally:
        for module in modules:
            rewrite(module)
