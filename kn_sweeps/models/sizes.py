"""The sizes of the presets' models, for who has none of their files yet.

They are those of each model's config.json on the hub, under its own names there, as far as they
decide shapes; whatever is left out has the value that transformers gives it. With them, and with a
config.json that is here, a model of the `meta` device is made and counted (`memory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _llama(width: int, neurons: int, layers: int, keys: int, words: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": neurons,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": keys,
        "vocab_size": words,
        "tie_word_embeddings": False,
    }


def _gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {"model_type": "gpt2", "n_embd": width, "n_layer": layers, "n_head": heads}


def _bert(width: int, layers: int, words: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "vocab_size": words,
    }


_LLAMA_3 = _llama(4096, 14336, 32, 8, 128256)
_HEADS_OF_128 = {"num_key_value_heads": 8, "head_dim": 128}
_MISTRAL = _llama(4096, 14336, 32, 8, 32000) | {"model_type": "mistral"}

SIZES: Mapping[str, Mapping[str, Any]] = {
    "openai-community/gpt2": _gpt2(768, 12, 12),
    "openai-community/gpt2-medium": _gpt2(1024, 24, 16),
    "openai-community/gpt2-xl": _gpt2(1600, 48, 25),
    "EleutherAI/gpt-j-6b": {
        **_gpt2(4096, 28, 16),
        "model_type": "gptj",
        "rotary_dim": 64,
        "vocab_size": 50400,
        "tie_word_embeddings": False,
    },
    "meta-llama/Llama-2-7b-hf": _llama(4096, 11008, 32, 32, 32000),
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_3,
    "mistralai/Mistral-7B-v0.1": _MISTRAL | {"head_dim": 128},
    "Qwen/Qwen2.5-7B-Instruct": _llama(3584, 18944, 28, 4, 152064)
    | {"model_type": "qwen2", "num_attention_heads": 28},
    "Qwen/Qwen3-8B": _llama(4096, 12288, 36, 8, 151936) | {"model_type": "qwen3"} | _HEADS_OF_128,
    "Qwen/Qwen3-0.6B": _llama(1024, 3072, 28, 8, 151936)
    | {"model_type": "qwen3", "num_attention_heads": 16, "tie_word_embeddings": True}
    | _HEADS_OF_128,
    "google/gemma-2-2b": {
        "model_type": "gemma2",
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 256000,
    },
    "gemma3_270m": {
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 262144,
    },
    "microsoft/Phi-3-mini-4k-instruct": _llama(3072, 8192, 32, 32, 32064)
    | {"model_type": "phi3", "pad_token_id": None},
    "allenai/OLMo-2-1124-7B": _llama(4096, 11008, 32, 32, 100352) | {"model_type": "olmo2"},
    "google-bert/bert-base-cased": _bert(768, 12, 28996),
    "google-bert/bert-large-cased": _bert(1024, 24, 28996),
    "FacebookAI/roberta-base": _bert(768, 12, 50265)
    | {"model_type": "roberta", "max_position_embeddings": 514, "type_vocab_size": 1},
    "answerdotai/ModernBERT-base": {"model_type": "modernbert", "vocab_size": 50368},
    "smollm2_135m": {
        **_llama(576, 1536, 30, 3, 49152),
        "num_attention_heads": 9,
        "tie_word_embeddings": True,
    },
}
"""By the hub's id; those that PyPI serves by their preset's label."""
