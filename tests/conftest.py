"""Random models of every family with one small tokenizer, and the tiny models that ship."""

from __future__ import annotations

import gc
import os
import shutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
# Small matrices gain nothing from a second thread and lose much when a core is shared. Read when
# PyTorch is imported, here and in every process that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedTokenizerFast,
)

from kn_sweeps.models.families import FAMILIES
from kn_sweeps.models.language_model import LanguageModel
from tests.servers.hub import HubServer
from tests.servers.wandb import WandbServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with Slurm's file, which mostly waits while others work, then with the slow files.

    Whole files, for what a file's tests share; xdist keeps this order where it is told so.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.get_closest_marker("slurm"), item.path not in slow))


def pytest_configure() -> None:
    """Look for no garbage in what modules leave while they are imported."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look for garbage among what tests make only, and seldom: a quarter of their time else."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    gc.enable()


WORDS = (
    *("The", "capital", "of", "is", "in", "city", "France", "Italy", "India", "Peru", "Paris"),
    *("Rome", "New", "Delhi", "Lima", "a", "b", "c", "d", "this", "that", "these", "those"),
    *("cat", "cats", "dog", "dogs", "sees", "see", "Ann", "Bob", ".", ",", "'s"),
)
SPECIAL = ["[PAD]", "[UNK]", "[BOS]", "[SEP]", "[MASK]"]

_SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
_GPT_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
_NAMES: dict[str, dict[str, str]] = {
    "bloom": {
        "intermediate_size": "",  # always 4 times hidden_size
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "",  # as far as ALiBi reaches
    },
    "gpt2": _GPT_NAMES,
    "gptj": _GPT_NAMES,
    "distilbert": {
        "hidden_size": "dim",
        "intermediate_size": "hidden_dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
    },
    "falcon": {"intermediate_size": "ffn_hidden_size"},
    "mpt": {
        "hidden_size": "d_model",
        "intermediate_size": "expansion_ratio",  # always 4, in fact
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "max_position_embeddings": "max_seq_len",
    },
    "opt": {"intermediate_size": "ffn_dim"},
}


_ALTERNATING = ("sliding_attention", "full_attention", "sliding_attention")
_ONE_KEY = {"num_key_value_heads": 1}
_HEADS = _ONE_KEY | {"head_dim": 12}
_MORE: dict[str, dict[str, object]] = {
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "electra": {"embedding_size": 16},
    "gemma": _HEADS,
    "gemma2": _HEADS
    | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "sliding_window": 64},
    "gemma3_text": _HEADS | {"final_logit_softcapping": 3.0, "sliding_window": 64},
    "gptj": {"rotary_dim": 4},
    "granite": _ONE_KEY
    | {
        "residual_multiplier": 0.7,
        "embedding_multiplier": 3.0,
        "logits_scaling": 2.0,
        "attention_multiplier": 0.4,
    },
    "llama": _ONE_KEY,
    "mistral": _ONE_KEY,
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3},
    "olmo2": _ONE_KEY,
    "olmo3": _ONE_KEY | {"sliding_window": 64},
    "opt": {"word_embed_proj_dim": 24},
    "phi": _ONE_KEY,
    "phi3": _ONE_KEY,
    "qwen2": _ONE_KEY,
    "qwen3": _ONE_KEY,
    "stablelm": _ONE_KEY | {"partial_rotary_factor": 0.5},
    "starcoder2": _ONE_KEY,
}
"""What a family's config takes besides its sizes; each of a family's numbers does something."""


def word_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    around = "[BOS] $A [SEP]" if kind == "masked" else "[BOS] $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[("[BOS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]"}
    if kind == "masked":
        names |= {"mask_token": "[MASK]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@cache
def random_lm(model_type: str, **changes: object) -> LanguageModel:
    """A random model of a family, in double precision, always the same."""
    torch.manual_seed(0)
    names = _NAMES.get(model_type, {})
    sizes = {names.get(key, key): value for key, value in _SIZES.items() if names.get(key, key)}
    extra = _MORE.get(model_type, {})
    config = CONFIG_MAPPING[model_type](
        vocab_size=len(SPECIAL) + len(WORDS),
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        tie_word_embeddings=False,
        **sizes
        | extra
        | {key: list(x) if isinstance(x, tuple) else x for key, x in changes.items()},
    )
    auto = AutoModelForMaskedLM if FAMILIES[model_type].kind == "masked" else AutoModelForCausalLM
    model = auto.from_config(config)
    # Larger than the library's initial weights, so that neurons matter and ties do not happen.
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = word_tokenizer(FAMILIES[model_type].kind)
    return LanguageModel(model.double(), tokenizer, name=model_type, revision="random")


_UPPER = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
_OTHERS: dict[str, dict[str, object]] = {
    "mistral, windowed": {"sliding_window": 8},
    "qwen2, windowed": _UPPER,
    "qwen3, windowed": _UPPER,
    "gemma3_text, windowed": {"sliding_window": 8, "layer_types": _ALTERNATING},
    "olmo3, windowed": {"sliding_window": 8, "layer_types": _ALTERNATING},
    "modernbert, windowed": {
        "local_attention": 6,
        "layer_types": ("sliding_attention", "sliding_attention", "full_attention"),
    },
    "phi3, windowed": {"sliding_window": 8},
    "starcoder2, windowed": {"sliding_window": 8},
    "falcon, of 40b": {"new_decoder_architecture": True, "num_kv_heads": 1},
    "falcon, in turn": {"parallel_attn": False, "alibi": True},
    "gpt_neox, in turn": {"use_parallel_residual": False},
    "stablelm, parallel": {"use_parallel_residual": True, "qk_layernorm": True},
    "deberta-v2, of v3": {"legacy": False, "conv_kernel_size": 3},
}
"""What else a family can be: windows are shorter than most prompts."""


def _lm_of(name: str) -> LanguageModel:
    return random_lm(name.split(", ")[0], **_OTHERS.get(name, {}))


@pytest.fixture(params=sorted([*FAMILIES, *_OTHERS]))
def any_lm(request: pytest.FixtureRequest) -> LanguageModel:
    """Every family in turn, also as what else it can be."""
    return _lm_of(request.param)


_UNLIKE = (
    *("bert", "distilbert", "electra", "modernbert, windowed"),
    *("gpt2", "gptj", "gpt_neox", "llama", "qwen3, windowed", "phi3", "granite", "opt", "falcon"),
    *("bloom", "gemma2", "gemma3_text, windowed", "olmo2"),
)
"""One family for each way to be unlike others: a norm behind the sum, before it, or a factor; MLP
beside attention; fused or transposed weights; windows, ALiBi, capped scores; embeddings of another
width; blocks that cannot be stepped or run in another way here."""


@pytest.fixture(params=_UNLIKE)
def unlike_lm(request: pytest.FixtureRequest) -> LanguageModel:
    """Families that cover every property of `Family`, where testing all of them takes too long."""
    return _lm_of(request.param)


@pytest.fixture(params=["bert", "gpt2", "llama"])
def some_lm(request: pytest.FixtureRequest) -> LanguageModel:
    """One masked family and two causal ones with either orientation of weights."""
    return random_lm(request.param)


@pytest.fixture
def lm_of() -> Callable[[str], LanguageModel]:
    """A random model by family."""
    return random_lm


@pytest.fixture(scope="session")
def official_data() -> Path:
    """The folder with official BLiMP and ParaRel files."""
    folder = os.environ.get("KN_SWEEPS_DATA")
    if not folder:
        pytest.skip("KN_SWEEPS_DATA does not name the official BLiMP and ParaRel files")
    return Path(folder)


@pytest.fixture(autouse=True)
def _own_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not depend on the caller's data folder, unless they ask for it."""
    if "official_data" not in request.fixturenames:
        monkeypatch.delenv("KN_SWEEPS_DATA", raising=False)


@pytest.fixture
def weights_kept() -> Iterator[Callable[[LanguageModel], None]]:
    """Register models whose weights and hooks must be as before when the test ends."""
    before: list[tuple[LanguageModel, dict[str, torch.Tensor]]] = []

    def watch(lm: LanguageModel) -> None:
        before.append((lm, {k: v.clone() for k, v in lm.model.state_dict().items()}))

    yield watch
    for lm, state in before:
        assert all(torch.equal(v, state[k]) for k, v in lm.model.state_dict().items())
        for module in lm.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks


@pytest.fixture
def causal_lm() -> LanguageModel:
    """A causal model of random weights."""
    return random_lm("gpt2")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A model hub of this test's own."""
    with HubServer() as server:
        yield server


@pytest.fixture
def wandb_server() -> Iterator[WandbServer]:
    """A W&B server of this test's own."""
    with WandbServer() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as the system has it."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if chromium is None or sync_playwright is None:
        reason = "chromium is not installed" if chromium is None else "playwright is not installed"
        if os.environ.get("KN_SWEEPS_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()
