"""With later modules frozen, attributions are those of the paths that are left."""

from __future__ import annotations

import pytest
import torch

from kn_sweeps.attribution.freezing import Freezing, Frozen
from kn_sweeps.attribution.hooked import HookedIntegrand
from kn_sweeps.attribution.integrand import Point
from kn_sweeps.attribution.integrated_gradients import integrand_of, integrated_gradients
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.cases import Query
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.reference.freezing import through_the_rest
from tests.reference.reading import Row

PARTS: tuple[Frozen, ...] = ("attention", "attention and MLPs")


def _prompts(lm: LanguageModel) -> list[Encoded]:
    return [
        lm.encode(Query("The capital of France is ", "."), "Paris"),
        lm.encode(Query("Ann sees ", " cat ."), "New Delhi"),
    ]


@pytest.mark.parametrize("frozen", PARTS)
def test_they_are_those_of_one_layer_at_a_time(some_lm: LanguageModel, frozen: Frozen) -> None:
    prompts, architecture = _prompts(some_lm), some_lm.architecture
    layers = range(architecture.layers)
    found = integrated_gradients(some_lm, prompts, Quadrature(tol=1e-4), frozen=frozen)
    for prompt, one in zip(prompts, found, strict=True):
        assert one.certified.all()
        rows = [
            Row(torch.tensor([row.ids]), row.positions, row.tokens) for row in some_lm.rows(prompt)
        ]
        for layer in layers:
            modules = [architecture.attention_output(n) for n in layers]
            if frozen == "attention and MLPs":
                modules += [architecture.mlp_output(n) for n in layers if n != layer]
            scores, without = through_the_rest(
                some_lm.model, architecture.mlp_output(layer), modules, rows
            )
            off = (one.scores[layer] - scores).norm() / scores.norm()
            assert float(off) < 1e-3, layer
            assert float(one.without[layer]) == pytest.approx(without, rel=1e-9)


def test_the_fast_way_is_the_general_one(unlike_lm: LanguageModel) -> None:
    prompts = _prompts(unlike_lm)
    points = [Point(p, layer, x) for p in (1, 0) for layer in (2, 0) for x in (0.0, 0.3)]
    for frozen in PARTS:
        fast = integrand_of(unlike_lm, prompts, "probability", frozen=frozen)
        general = HookedIntegrand(unlike_lm, prompts, frozen=frozen)
        each = zip(
            (*fast.at(points), fast.whole.gradients),
            (*general.at(points), general.whole.gradients),
            strict=True,
        )
        for found, expected in each:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_at_the_end_no_path_but_the_direct_one_is_left(some_lm: LanguageModel) -> None:
    prompts = _prompts(some_lm)
    whole, attention, both = (
        integrand_of(some_lm, prompts, "log_probability", frozen=frozen).whole
        for frozen in ("nothing", *PARTS)
    )
    last = some_lm.architecture.layers - 1
    for one in (attention, both):
        torch.testing.assert_close(one.values, whole.values)
        torch.testing.assert_close(one.gradients[last], whole.gradients[last])
        assert not torch.allclose(one.gradients[0], whole.gradients[0], rtol=1e-3, atol=1e-6)
    assert not torch.allclose(both.gradients[0], attention.gradients[0], rtol=1e-3, atol=1e-6)


def test_what_cannot_be_frozen_is_refused(causal_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="choose from nothing, attention, attention and MLPs"):
        Freezing(causal_lm, "MLPs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="site=pre_activation nothing can be frozen"):
        integrated_gradients(
            causal_lm, _prompts(causal_lm), site="pre_activation", frozen="attention"
        )
