"""RelP's coefficients are those of rules that are written out, and change no value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kn_sweeps.attribution.baselines import grad_x_act, relp
from kn_sweeps.attribution.relevance import relevance_rules
from kn_sweeps.cases import Query
from kn_sweeps.models.language_model import LanguageModel
from tests.conftest import random_lm
from tests.reference import relevance
from tests.reference.reading import causal_rows

PROMPTS = [(Query("The capital of France is "), "Paris"), (Query("Ann sees "), "New Delhi")]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_are_those_of_rules_that_are_written_out(family: str) -> None:
    lm = random_lm(family)
    prompts = [lm.encode(*one) for one in PROMPTS]
    for prompt, found in zip(prompts, relp(lm, prompts), strict=True):
        ids = torch.tensor([prompt.ids[: prompt.target[0]]])
        expected = relevance.scores(lm.model, causal_rows(ids, prompt.target_ids))
        torch.testing.assert_close(found.scores, expected.float(), atol=1e-9, rtol=2e-4)


def test_values_stay_and_gradients_do_not(unlike_lm: LanguageModel) -> None:
    prompts = [unlike_lm.encode(*one) for one in PROMPTS]
    batch = unlike_lm.batch([row.ids for row in unlike_lm.rows(prompts[0])])
    plain = unlike_lm.hidden(batch)
    with relevance_rules(unlike_lm):
        assert torch.equal(unlike_lm.hidden(batch), plain)
    assert torch.equal(unlike_lm.hidden(batch), plain)
    for prompt, found, other in zip(
        prompts, relp(unlike_lm, prompts), grad_x_act(unlike_lm, prompts), strict=True
    ):
        assert found.value == pytest.approx(other.value, rel=1e-5)
        assert not torch.allclose(found.scores[:-1], other.scores[:-1], rtol=1e-2)
        (alone,) = relp(unlike_lm, [prompt])
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-9, rtol=1e-3)


def test_an_activation_that_is_no_module_is_refused(lm_of: Callable[[str], LanguageModel]) -> None:
    lm = lm_of("llama")
    mlp = lm.model.get_submodule("model.layers.1.mlp")
    del mlp.act_fn
    mlp.act_fn = torch.nn.functional.silu  # type: ignore[assignment]
    with pytest.raises(ValueError, match="layer 1 has no activation function"):
        relp(lm, [lm.encode(*PROMPTS[0])])
