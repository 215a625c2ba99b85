"""A family without a line is used as one that it is like, with a warning, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from kn_sweeps.models import checkpoints
from kn_sweeps.models.families import FAMILIES
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.pretrained import Pretrained
from tests import test_interventions
from tests.conftest import random_lm
from tests.models import test_language_model

CPU = torch.device("cpu")


def _unknown(
    monkeypatch: pytest.MonkeyPatch, family: str, others: tuple[str, ...] = (), **more: Any
) -> LanguageModel:
    """A model of a family whose line is not there, nor those of others."""
    known = random_lm.__wrapped__(family, **more)
    for name in (family, *others):
        monkeypatch.delitem(FAMILIES, name)
    return LanguageModel(known.model, known.tokenizer, name=family)


@pytest.mark.parametrize(
    ("family", "pattern"),
    [
        ("olmo2", "olmo3"),
        ("granite", ""),
        ("gemma", "llama, mistral"),
        ("xlm-roberta", "roberta"),
        ("phi", ""),
    ],
)
def test_it_is_what_keeps_all_laws(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    weights_kept: Any,
    family: str,
    pattern: str,
) -> None:
    if not pattern:
        with pytest.raises(ValueError, match=f"'{family}' is not known"):
            _unknown(monkeypatch, family)
        return
    lm = _unknown(monkeypatch, family)
    assert f"'{family}' has no line in FAMILIES and is used as {pattern}" in caplog.text
    test_language_model.test_batched_scores_equal_the_reference_one_by_one(lm)
    test_interventions.test_an_applied_edit_equals_the_merged_one(lm, weights_kept)


def test_a_norm_before_the_sum_finds_the_pattern_that_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lm = _unknown(monkeypatch, "olmo3")
    assert "is used as olmo2:" in caplog.text
    assert not lm.architecture.adds_as_is


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny checkpoint of a family that has no line."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    lm = random_lm("llama")
    config = CONFIG_MAPPING["olmo"](
        vocab_size=lm.model.config.vocab_size, num_attention_heads=2, pad_token_id=0, **sizes
    )
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_checkpoint_of_an_unknown_family_is_described_and_loaded(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Pretrained(label="mine", name=str(folder))
    assert model.described() == checkpoints.Described("causal", 2)
    lm = model.load(CPU, "float32")
    assert lm.architecture.model_type == "olmo"
    assert "'olmo' has no line in FAMILIES and is used as llama, mistral" in caplog.text


def test_one_whose_classes_do_not_say_how_it_reads_is_refused_as_before(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["OlmoModel"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="family 'olmo' is not known; known are bert"):
        Pretrained(label="mine", name=str(folder)).described()
