"""Tiny random models of three families, and the token ids the references are tried on."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from .reading import Row, causal_rows, masked_rows

VOCAB, MASK, WIDTH, D_FF = 29, 1, 16, 24
TARGET = (7, 11, 5)
PROMPT = torch.tensor([[3, 9, 14, 20, 8, 17]])
MASKED = torch.tensor([[2, 9, 14, MASK, MASK, MASK, 8, 4]])
MASKS = (3, 4, 5)


@dataclass(frozen=True)
class Tiny:
    """A model in double precision, its output projections, and the rows that read TARGET."""

    model: nn.Module
    projections: list[nn.Module]
    rows: list[Row]
    transposed: bool  # the projections' weights are (d_ff, d_model)
    masked: bool


def build(family: str) -> Tiny:
    """Build "gpt2", "llama" or "bert", always the same weights."""
    torch.manual_seed(0)
    if family == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB,
                n_positions=32,
                n_embd=WIDTH,
                n_inner=D_FF,
                n_layer=3,
                n_head=2,
                initializer_range=0.3,
                tie_word_embeddings=False,  # or greedy answers repeat one token
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        projections = [block.mlp.c_proj for block in model.transformer.h]
    else:
        sizes = {
            "vocab_size": VOCAB,
            "hidden_size": WIDTH,
            "intermediate_size": D_FF,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "initializer_range": 0.3,
        }
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(bos_token_id=None, eos_token_id=None, **sizes))
            projections = [block.mlp.down_proj for block in model.model.layers]
        else:
            model = BertForMaskedLM(BertConfig(**sizes))
            projections = [block.output.dense for block in model.bert.encoder.layer]
    # Biases start at zero, where a forgotten one would not show.
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    rows = masked_rows(MASKED, MASKS, TARGET) if family == "bert" else causal_rows(PROMPT, TARGET)
    return Tiny(model.double().eval(), projections, rows, family == "gpt2", family == "bert")
