"""The model families and where each keeps its parts: the only file that knows module paths.

To add a family, add a line to `FAMILIES` under the `model_type` of its config. `Architecture`
checks every path and shape of a loaded model, and `laws` on a few tokens what the rest of the
project takes for granted, so that a wrong line is refused instead of silently measuring something
else. A family without a line is tried as each of those that are here (`probing`).

Nothing here needs a model library: what a config cannot be is told before one is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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


def _capped_head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits between -cap and cap, where the config has one."""
    logits: Tensor = model.get_submodule("lm_head")(hidden)
    cap = model.config.final_logit_softcapping
    capped: Tensor = logits if cap is None else (logits / cap).tanh() * cap
    return capped


def _scaled_head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    logits: Tensor = model.get_submodule("lm_head")(hidden) / model.config.logits_scaling
    return logits


def _deberta_head(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    if model.config.legacy:
        return modules_head("cls")(model, hidden)
    logits: Tensor = model.get_submodule("lm_predictions")(hidden, model.get_input_embeddings())
    return logits


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
        output_norm: The norm that the MLP's output passes before it is added, within a block; None
            where there is none.
        factor: What its config calls the number by which the MLP's output is multiplied before it
            is added; None where there is none.
        head: Final hidden states to logits.
        conv1d: Whether the projection is GPT-2's Conv1D, whose weight is (d_ff, d_model).
        pre_activation: What the activation function reads, within a block: where Niu et al.'s code
            attributes in decoders. None where that code, too, attributes behind the activation.
        fused: Whether the first half of what `pre_activation` puts out is what the activation
            function reads, and the other half what it multiplies.
        rewritten: The module, within a block, that computes the same in another way here
            (`rewriting`), so that hooks see what they have to; "" for the block itself.
        layers: What its config.json calls the number of its blocks.
    """

    kind: LMKind
    base: str
    blocks: str
    mlp_output: str
    attention_output: str
    embeddings: str
    post_norm: str | None = None
    output_norm: str | None = None
    factor: str | None = None
    head: Head = field(default=modules_head("lm_head"))
    conv1d: bool = False
    pre_activation: str | None = None
    fused: bool = False
    rewritten: str | None = None
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
_ROBERTA = Family(
    "masked",
    "roberta",
    "roberta.encoder.layer",
    _BERT_MLP,
    _BERT_ATTENTION,
    "roberta.embeddings.word_embeddings",
    "output.LayerNorm",
)
_BLOOM = Family(
    "causal",
    "transformer",
    "transformer.h",
    "mlp.dense_4h_to_h",
    "self_attention.dense",
    "transformer.word_embeddings",
    pre_activation="mlp.dense_h_to_4h",
    layers="n_layer",
)
_NORMED = replace(_LLAMA, output_norm="post_feedforward_layernorm")

FAMILIES: dict[str, Family] = {
    "bert": Family(
        "masked",
        "bert",
        "bert.encoder.layer",
        _BERT_MLP,
        _BERT_ATTENTION,
        "bert.embeddings.word_embeddings",
        "output.LayerNorm",
        head=modules_head("cls"),
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "electra": Family(
        "masked",
        "electra",
        "electra.encoder.layer",
        _BERT_MLP,
        _BERT_ATTENTION,
        "electra.embeddings.word_embeddings",
        "output.LayerNorm",
        head=modules_head("generator_predictions", "generator_lm_head"),
    ),
    "deberta-v2": Family(
        "masked",
        "deberta",
        "deberta.encoder.layer",
        _BERT_MLP,
        _BERT_ATTENTION,
        "deberta.embeddings.word_embeddings",
        "output.LayerNorm",
        head=_deberta_head,
    ),
    "modernbert": Family(
        "masked",
        "model",
        "model.layers",
        "mlp.Wo",
        "attn.Wo",
        "model.embeddings.tok_embeddings",
        head=modules_head("head", "decoder"),
    ),
    "distilbert": Family(
        "masked",
        "distilbert",
        "distilbert.transformer.layer",
        "ffn.lin2",
        "attention.out_lin",
        "distilbert.embeddings.word_embeddings",
        "output_layer_norm",
        head=modules_head("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
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
    "stablelm": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": replace(_NORMED, head=_capped_head),
    "gemma3_text": replace(_NORMED, head=_capped_head),
    "olmo2": _NORMED,
    "olmo3": _NORMED,
    "granite": replace(_LLAMA, factor="residual_multiplier", head=_scaled_head),
    "phi3": replace(_LLAMA, pre_activation="mlp.gate_up_proj", fused=True),
    "phi": replace(
        _LLAMA, mlp_output="mlp.fc2", attention_output="self_attn.dense", pre_activation="mlp.fc1"
    ),
    "starcoder2": replace(_LLAMA, mlp_output="mlp.c_proj", pre_activation="mlp.c_fc"),
    "opt": Family(
        "causal",
        "model.decoder",
        "model.decoder.layers",
        "fc2",
        "self_attn.out_proj",
        "model.decoder.embed_tokens",
        pre_activation="fc1",
        rewritten="",
    ),
    "bloom": _BLOOM,
    "falcon": replace(_BLOOM, rewritten="mlp", layers=Family.layers),
}

_EXPERTS = (
    "its MLPs are experts, between which every token chooses and whose weights are one tensor: "
    "there is no module whose input is the neurons of a layer, and a change of one expert acts "
    "only on the tokens that choose it"
)
REFUSED = {
    "albert": "all of its layers share one MLP: its neurons are those of no layer, and a change of "
    "one is a change of all",
    "mixtral": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}
"""Families that cannot be right here, and why."""


class UnknownFamilyError(ValueError):
    """A family that has no line."""


def family_of(model_type: str) -> Family:
    """A family's line.

    Raises:
        UnknownFamilyError: If there is none.
        ValueError: If it cannot be right here; it says why.
    """
    if model_type in REFUSED:
        raise ValueError(f"the model family {model_type!r} is not supported: {REFUSED[model_type]}")
    if model_type not in FAMILIES:
        raise UnknownFamilyError(
            f"the model family {model_type!r} is not known; known are "
            f"{', '.join(sorted(FAMILIES))}. To add it, name its modules in FAMILIES in "
            "kn_sweeps/models/families.py (see docs/adding.md)"
        )
    return FAMILIES[model_type]
