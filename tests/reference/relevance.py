"""Relevance propagation through a small decoder, every rule written out as a forward pass.

What a rule takes for constant is detached where it is computed; the plain gradient of that forward
pass is then the coefficient.

Source: Rezaei Jafari et al. (2025), *RelP*, section 3 and their table of rules.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .integrated_gradients import probability
from .reading import Row


def _normed(norm: nn.Module, x: Tensor) -> Tensor:
    bias: Any = getattr(norm, "bias", None)
    eps: Any = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", None)
    if bias is not None:
        x = x - x.mean(-1, keepdim=True)
    divisor = (x.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach()
    return x / divisor * norm.weight + (0 if bias is None else bias)  # type: ignore[operator]


def _activated(x: Tensor, f: Any) -> Tensor:
    return x * (f(x) / x).detach()


def _attended(pattern: Tensor, values: Tensor, size: int) -> Tensor:
    """What heads of some size read with a constant pattern, shape (seq, heads * size)."""
    split = values.unflatten(-1, (-1, size))
    split = split.repeat_interleave(len(pattern) // split.shape[1], 1)
    return torch.einsum("hqk,khd->qhd", pattern.detach(), split).flatten(1)


def _leaf(neurons: Tensor) -> Tensor:
    # Weights are frozen: the gradient needs somewhere to end.
    return neurons + torch.zeros_like(neurons, requires_grad=True)


def _llama_block(block: Any, x: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
    attention, mlp = block.self_attn, block.mlp
    values = attention.v_proj(_normed(block.input_layernorm, x))
    x = x + attention.o_proj(_attended(pattern, values, attention.head_dim))
    h = _normed(block.post_attention_layernorm, x)
    product = _activated(mlp.gate_proj(h), mlp.act_fn) * mlp.up_proj(h)
    neurons = _leaf(product.detach() + (product - product.detach()) / 2)
    return x + mlp.down_proj(neurons), neurons


def _gpt2_block(block: Any, x: Tensor, pattern: Tensor) -> tuple[Tensor, Tensor]:
    values = block.attn.c_attn(_normed(block.ln_1, x)).chunk(3, -1)[2]
    x = x + block.attn.c_proj(_attended(pattern, values, block.attn.head_dim))
    neurons = _leaf(_activated(block.mlp.c_fc(_normed(block.ln_2, x)), block.mlp.act))
    return x + block.mlp.c_proj(neurons), neurons


def scores(model: Any, rows: Sequence[Row]) -> Tensor:
    """Scores of a LLaMA or GPT-2: a_i * coefficient where answers are read, (layers, d_ff)."""
    gated = model.config.model_type == "llama"
    blocks, norm, step = (
        (model.model.layers, model.model.norm, _llama_block)
        if gated
        else (model.transformer.h, model.transformer.ln_f, _gpt2_block)
    )
    logits: list[Tensor] = []
    kept: list[list[Tensor]] = []
    for row in rows:
        eager = deepcopy(model)  # to be asked for its patterns leaves hooks behind
        eager.config._attn_implementation = "eager"
        patterns = eager(row.ids, output_attentions=True).attentions
        seen: list[Tensor] = []
        handle = blocks[0].register_forward_pre_hook(
            lambda _m, args, seen=seen: seen.append(args[0])
        )
        model(row.ids)
        handle.remove()
        x, neurons = seen[0][0], []
        for block, pattern in zip(blocks, patterns, strict=True):
            x, own = step(block, x, pattern[0])
            neurons.append(own)
        logits.append(model.lm_head(_normed(norm, x))[None])
        kept.append(neurons)
    value = probability(logits, rows)[0]
    total = torch.zeros(len(blocks), kept[0][0].shape[-1], dtype=value.dtype)
    for row, neurons in zip(rows, kept, strict=True):
        for layer, own in enumerate(neurons):
            (gradient,) = torch.autograd.grad(value, own, retain_graph=True)
            for position in row.positions:
                total[layer] += own[position].detach() * gradient[position]
    return total
