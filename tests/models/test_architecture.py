"""Handles are checked when a model is loaded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kn_sweeps.models.architecture import Architecture
from kn_sweeps.models.families import FAMILIES, Family
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.laws import check_laws


def _loaded(lm: LanguageModel) -> None:
    """Do what loading does: find the parts, and check the laws."""
    check_laws(LanguageModel(lm.model, lm.tokenizer, name=lm.name))


def test_every_family_finds_its_parts(any_lm: LanguageModel) -> None:
    parts = any_lm.architecture
    d_ff = 96 if parts.model_type == "bloom" else 40
    assert (parts.layers, parts.d_model, parts.d_ff) == (3, 24, d_ff)
    neurons = torch.randn(2, d_ff, dtype=torch.float64)
    written = neurons @ parts.values(1) + (0 if parts.bias(1) is None else parts.bias(1))
    torch.testing.assert_close(parts.mlp_output(1)(neurons), written)


def test_an_unknown_family_says_how_to_add_it(lm_of, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    model = lm_of("gpt2").model
    monkeypatch.setattr(model.config, "model_type", "mamba")
    with pytest.raises(
        ValueError, match=r"family 'mamba' is not known; known are bert.*docs/adding"
    ):
        Architecture(model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mlp_output": "mlp.c_projection"}, "no module 'transformer.h.0.mlp.c_projection'"),
        ({"mlp_output": "mlp.c_fc"}, "should be a Conv1D from"),
        ({"mlp_output": "attn.c_proj"}, "from 40 neurons to 24, got Conv1D"),
        ({"conv1d": False}, "should be a Linear"),
        ({"base": "transformer.wte"}, "no attribute 'last_hidden_state'"),
    ],
)
def test_a_wrong_line_is_refused(
    lm_of,  # noqa: ANN001
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    message: str,
) -> None:
    line = {**vars(FAMILIES["gpt2"]), **change}
    monkeypatch.setitem(FAMILIES, "gpt2", Family(**line))
    with pytest.raises(ValueError, match=message):
        _loaded(lm_of("gpt2"))


@pytest.mark.parametrize(
    "change", [{"post_norm": None}, {"post_norm": "attention.output.LayerNorm"}]
)
def test_a_wrong_norm_is_refused(
    lm_of,  # noqa: ANN001
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
) -> None:
    monkeypatch.setitem(FAMILIES, "bert", Family(**vars(FAMILIES["bert"]) | change))
    with pytest.raises(ValueError, match="Without its MLP's output block 0 gives something else"):
        _loaded(lm_of("bert"))


def test_a_head_that_gives_other_logits_is_refused(lm_of, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    line = vars(FAMILIES["gpt2"]) | {"head": lambda model, hidden: 2 * model.lm_head(hidden)}
    monkeypatch.setitem(FAMILIES, "gpt2", Family(**line))
    with pytest.raises(ValueError, match="does not hold: The head of final hidden states gives"):
        _loaded(lm_of("gpt2"))


def test_a_layer_that_does_not_exist_is_named(lm_of) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match="layer 3 does not exist; the model has 0 to 2"):
        lm_of("bert").architecture.values(3)
    assert isinstance(lm_of("bert").architecture.mlp_output(2), nn.Linear)
