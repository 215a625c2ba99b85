"""The model families and where each keeps its parts: the only file that knows module paths.

To add a family, add a line to `FAMILIES` under the `model_type` of its config. `Architecture`
checks every path and shape of a loaded model, and `laws` on a few tokens what the rest of the
project takes for granted, so that a wrong line is refused instead of silently measuring something
else.

Nothing here needs a model library: what a config cannot be is told before one is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kn_sweeps.cases import LMKind

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Head = Callable[["PreTrainedModel", "Tensor"], "Tensor"]


def modules_head(*paths: str) -> Head:
    """A head of modules that follow each other, by their paths."""

    def head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
        for path in paths:
            hidden = model.get_submodule(path)(hidden)
        return hidden

    return head


@dataclass(frozen=True)
class Family:
    """Module paths of one model family.

    Attributes:
        kind: How the family reads a query.
        base: The model without its head; its `last_hidden_state` is what `head` reads.
        blocks: The list of transformer blocks.
        mlp_output: The MLP's output projection, within a block. Its input coordinates are the
            neurons.
        attention_output: The attention's output projection, within a block.
        embeddings: The token embedding.
        post_norm: The norm that follows the sum of MLP output and residual, within a block; None
            where the sum is the block's output.
        head: Final hidden states to logits.
        conv1d: Whether the projection is GPT-2's Conv1D, whose weight is (d_ff, d_model).
        pre_activation: What the activation function reads, within a block: where Niu et al.'s code
            attributes in decoders. None where that code, too, attributes behind the activation.
        layers: What its config.json calls the number of its blocks.
    """

    kind: LMKind
    base: str
    blocks: str
    mlp_output: str
    attention_output: str
    embeddings: str
    post_norm: str | None = None
    head: Head = field(default=modules_head("lm_head"))
    conv1d: bool = False
    pre_activation: str | None = None
    layers: str = "num_hidden_layers"


_BERT_MLP, _BERT_ATTENTION = "output.dense", "attention.output.dense"
_LLAMA = Family(
    "causal",
    "model",
    "model.layers",
    "mlp.down_proj",
    "self_attn.o_proj",
    "model.embed_tokens",
    pre_activation="mlp.gate_proj",
)

FAMILIES: dict[str, Family] = {
    "bert": Family(
        "masked",
        "bert",
        "bert.encoder.layer",
        _BERT_MLP,
        _BERT_ATTENTION,
        "bert.embeddings.word_embeddings",
        "output.LayerNorm",
        modules_head("cls"),
    ),
    "roberta": Family(
        "masked",
        "roberta",
        "roberta.encoder.layer",
        _BERT_MLP,
        _BERT_ATTENTION,
        "roberta.embeddings.word_embeddings",
        "output.LayerNorm",
    ),
    "distilbert": Family(
        "masked",
        "distilbert",
        "distilbert.transformer.layer",
        "ffn.lin2",
        "attention.out_lin",
        "distilbert.embeddings.word_embeddings",
        "output_layer_norm",
        modules_head("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        layers="n_layers",
    ),
    "gpt2": Family(
        "causal",
        "transformer",
        "transformer.h",
        "mlp.c_proj",
        "attn.c_proj",
        "transformer.wte",
        conv1d=True,
        pre_activation="mlp.c_fc",
        layers="n_layer",
    ),
    "gptj": Family(
        "causal",
        "transformer",
        "transformer.h",
        "mlp.fc_out",
        "attn.out_proj",
        "transformer.wte",
        pre_activation="mlp.fc_in",
        layers="n_layer",
    ),
    "gpt_neox": Family(
        "causal",
        "gpt_neox",
        "gpt_neox.layers",
        "mlp.dense_4h_to_h",
        "attention.dense",
        "gpt_neox.embed_in",
        pre_activation="mlp.dense_h_to_4h",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def family_of(model_type: str) -> Family:
    """A family's line.

    Raises:
        ValueError: If there is none.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"the model family {model_type!r} is not known; known are "
            f"{', '.join(sorted(FAMILIES))}. To add it, name its modules in FAMILIES in "
            "kn_sweeps/models/families.py (see docs/adding.md)"
        )
    return FAMILIES[model_type]
