"""Attributions are complete, certified, and agree with the per-layer loop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from transformers import PreTrainedModel

import kn_sweeps.attribution.integrated_gradients as module
from kn_sweeps.attribution.baselines import activation, by_chance, grad_x_act, neurgrad
from kn_sweeps.attribution.hooked import HookedIntegrand
from kn_sweeps.attribution.integrand import Measure, Point
from kn_sweeps.attribution.integrated_gradients import (
    Attribution,
    integrand_of,
    integrated_gradients,
)
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.attribution.stepped import SteppedIntegrand
from kn_sweeps.cases import Query
from kn_sweeps.edits import NeuronScale
from kn_sweeps.interventions import applied
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import in_double
from kn_sweeps.models.stepping import CannotStepError
from kn_sweeps.models.tokenization import Encoded
from tests.attribution.rows import reference_rows
from tests.reference import gradients
from tests.reference import integrated_gradients as reference

ONE = (Query("The capital of France is ", ".", (15, 21)), "Paris")
TWO = (Query("The capital of India is ", " ."), "New Delhi")
SHORT = (Query("Ann sees ", " cat."), "these")
QUERIES = [ONE, TWO]
TOL = Quadrature().tol


def _encoded(lm: LanguageModel) -> list[Encoded]:
    return [lm.encode(*question) for question in (ONE, TWO, SHORT)]


def _projections(lm: LanguageModel) -> list[torch.nn.Module]:
    return [lm.architecture.mlp_output(layer) for layer in range(lm.architecture.layers)]


def _single(lm: LanguageModel, dtype: torch.dtype) -> LanguageModel:
    """The same weights in another precision."""
    model = copy.deepcopy(lm.model).to(dtype)
    return LanguageModel(model, lm.tokenizer, name=lm.name, revision=str(dtype))


def _interrupted(lm: LanguageModel) -> None:
    assert lm.model.dtype == torch.float64
    raise KeyboardInterrupt


def _relative(found: Attribution, expected: Attribution) -> float:
    return float((found.scores - expected.scores).norm() / expected.scores.norm())


@pytest.mark.parametrize(("query", "target"), QUERIES)
def test_every_layer_is_complete(unlike_lm: LanguageModel, query: Query, target: str) -> None:
    (result,) = integrated_gradients(unlike_lm, [unlike_lm.encode(query, target)])
    # OPT's ReLU has kinks: where integrals run out of nodes they say so.
    sure = result.certified
    assert sure.all() or unlike_lm.architecture.model_type == "opt"
    assert sure.any()
    change = (result.value - result.without).abs().clamp(min=1e-6)
    sums = (result.scores.sum(-1) - (result.value - result.without)).abs()
    assert (sums <= TOL * change + 1e-7)[sure].all()
    assert (result.error <= TOL)[sure].all()
    rows = reference_rows(unlike_lm, unlike_lm.encode(query, target))
    for layer in range(unlike_lm.architecture.layers):
        at = [
            reference.probability_at(unlike_lm.model, _projections(unlike_lm), layer, rows, alpha)
            for alpha in (1.0, 0.0)
        ]
        assert result.value == pytest.approx(at[0], rel=1e-5)
        assert float(result.without[layer]) == pytest.approx(at[1], rel=1e-5)


@pytest.mark.parametrize(("query", "target"), QUERIES)
def test_riemann_equals_the_reference_with_the_same_steps(
    some_lm: LanguageModel, query: Query, target: str
) -> None:
    prompt = some_lm.encode(query, target)
    (found,) = integrated_gradients(some_lm, [prompt], Quadrature("riemann", 20))
    expected = reference.knowledge_neurons_reference(
        some_lm.model,
        _projections(some_lm),
        reference_rows(some_lm, some_lm.encode(query, target)),
        steps=20,
    )
    torch.testing.assert_close(found.scores, expected.float(), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("query", "target"), QUERIES)
def test_the_reference_converges_to_it(some_lm: LanguageModel, query: Query, target: str) -> None:
    prompt = some_lm.encode(query, target)
    found = integrated_gradients(some_lm, [prompt], Quadrature(tol=1e-6))[0].scores
    rows = reference_rows(some_lm, some_lm.encode(query, target))
    errors = []
    for steps in (5, 20, 80):
        expected = torch.stack(
            [
                reference.midpoint(some_lm.model, _projections(some_lm), layer, rows, steps=steps)
                for layer in range(some_lm.architecture.layers)
            ]
        )
        errors.append(float((found - expected).abs().max() / expected.abs().max()))
    assert errors[0] > 4 * errors[1]
    assert errors[2] < 1e-3


@pytest.mark.parametrize("measure", ["probability", "log_probability"])
def test_rows_that_join_at_their_layer_equal_whole_rows(
    unlike_lm: LanguageModel, measure: Measure
) -> None:
    prompts = _encoded(unlike_lm)
    hooked = HookedIntegrand(unlike_lm, prompts, measure)
    if not unlike_lm.can_be_stepped:
        with pytest.raises(CannotStepError, match="cannot be"):
            SteppedIntegrand(unlike_lm, prompts, measure)
        assert isinstance(integrand_of(unlike_lm, prompts, measure), HookedIntegrand)
        return
    stepped = integrand_of(unlike_lm, prompts, measure)
    assert isinstance(stepped, SteppedIntegrand)
    torch.testing.assert_close(stepped.whole.values, hooked.whole.values)
    torch.testing.assert_close(stepped.whole.neurons, hooked.whole.neurons)
    torch.testing.assert_close(stepped.whole.gradients, hooked.whole.gradients)
    draw = torch.Generator().manual_seed(0)
    points = [
        Point(
            int(torch.randint(len(prompts), (1,), generator=draw)),
            int(torch.randint(unlike_lm.architecture.layers, (1,), generator=draw)),
            float(torch.rand(1, generator=draw)),
        )
        for _ in range(30)
    ]
    for found, expected in zip(stepped.at(points), hooked.at(points), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-7)


def test_company_rows_and_padding_change_nothing(some_lm: LanguageModel) -> None:
    prompts = _encoded(some_lm)
    together = integrated_gradients(some_lm, prompts)
    for max_rows in (1, 7, 40):
        for prompt, expected in zip(prompts, together, strict=True):
            (alone,) = integrated_gradients(some_lm, [prompt], max_rows=max_rows)
            torch.testing.assert_close(alone.scores, expected.scores, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(alone.without, expected.without, atol=1e-6, rtol=1e-6)
            assert torch.equal(alone.nodes, expected.nodes)


def test_a_silent_neuron_has_no_attribution(some_lm: LanguageModel) -> None:
    with applied(some_lm, NeuronScale(((1, 5), (2, 11)), 0.0)):
        (found,) = integrated_gradients(some_lm, [some_lm.encode(*ONE)])
    assert found.scores[1, 5] == 0
    assert found.scores[2, 11] == 0
    assert (found.scores != 0).sum() > 60
    assert found.certified.all()


def test_a_broken_weight_makes_the_certificate_fail(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = _encoded(some_lm)
    right = some_lm.architecture.values
    broken = right(1).clone()
    broken[:10] *= -1

    def values(layer: int) -> torch.Tensor:
        return broken if layer == 1 else right(layer)

    monkeypatch.setattr(some_lm.architecture, "values", values)
    for found in integrated_gradients(some_lm, prompts, Quadrature(max_nodes=64)):
        assert not found.certified[1]
        assert found.certified[[0, 2]].all()


def test_too_few_nodes_are_not_certified(some_lm: LanguageModel) -> None:
    prompts = [some_lm.encode(*ONE)]
    (few,) = integrated_gradients(some_lm, prompts, Quadrature(tol=1e-5, max_nodes=5))
    (many,) = integrated_gradients(some_lm, prompts, Quadrature(tol=1e-5))
    assert not few.certified.all()
    assert (few.nodes == 5).all()
    assert many.certified.all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_rounding_forbids_is_recognised_at_once(
    some_lm: LanguageModel, dtype: torch.dtype
) -> None:
    coarse, prompts = _single(some_lm, dtype), _encoded(some_lm)
    found = integrated_gradients(coarse, prompts)
    fine = integrated_gradients(some_lm, prompts)
    nodes = [sum(int(one.nodes.sum()) for one in some) for some in (found, fine)]
    assert nodes[0] <= 2 * nodes[1]
    for one in found:
        assert not one.certified.any()
        assert one.rounded.float().mean() > 0.9
    assert not any(one.rounded.any() for one in fine)


def test_what_single_precision_cannot_certify_is_computed_in_double(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = _single(some_lm, torch.float32)
    before = {name: p.clone() for name, p in single.model.state_dict().items()}
    prompts, fine = _encoded(single), Quadrature(tol=1e-8)
    (expected, *_) = integrated_gradients(some_lm, prompts, fine)
    (found, *_) = integrated_gradients(single, prompts, fine)
    assert found.certified.all()
    assert _relative(found, expected) < 1e-5
    state = single.model.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert single.model.dtype == torch.float32
    monkeypatch.setattr(module, "in_double", None)  # not called where nothing is unclear
    integrated_gradients(single, prompts, Quadrature(tol=1e-2))


def test_where_double_precision_does_not_fit_it_is_made_smaller_or_left_out_and_said(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    single = _single(some_lm, torch.float32)
    prompts, fine = _encoded(single), Quadrature(tol=1e-8)
    roomy = integrated_gradients(single, prompts, fine)
    wholes: list[bool] = []
    own = module.in_double

    def seen(model: PreTrainedModel, *, whole: bool) -> AbstractContextManager[None]:
        wholes.append(whole)
        return own(model, whole=whole)

    monkeypatch.setattr(module, "in_double", seen)
    longest = max(len(prompt.ids) for prompt in prompts)
    row = 2 * single.shape.kept(1, longest, 0, single.shape.layers)
    tight = single.shape.double() + len(prompts) * row
    monkeypatch.setattr(module, "free_memory", lambda _: tight)
    found = integrated_gradients(single, prompts, fine)
    assert set(wholes) == {False}
    for one, other in zip(found, roomy, strict=True):
        assert one.certified.all()
        assert _relative(one, other) < 1e-7
    monkeypatch.setattr(module, "free_memory", lambda _: row)
    wholes.clear()
    assert not all(one.certified.all() for one in integrated_gradients(single, prompts, fine))
    assert not wholes
    assert "stays uncertified: to compute it in double" in caplog.text


def test_double_precision_is_undone_by_an_interrupt(some_lm: LanguageModel) -> None:
    single = _single(some_lm, torch.float32)
    before = {name: p.clone() for name, p in single.model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), in_double(single.model):
        _interrupted(single)
    state = single.model.state_dict()
    assert all(torch.equal(state[name], before[name]) for name in before)
    with pytest.raises(ValueError, match="only a float32 model"), in_double(some_lm.model):
        pass


def test_half_precision_is_close_and_does_not_claim_more(some_lm: LanguageModel) -> None:
    half = _single(some_lm, torch.bfloat16)
    prompts = _encoded(some_lm)
    found = integrated_gradients(half, prompts)
    for one, expected in zip(found, integrated_gradients(some_lm, prompts), strict=True):
        assert one.scores.dtype == torch.float32
        assert _relative(one, expected) < 0.3
        assert int(one.nodes.max()) <= 64


def test_a_model_that_gives_no_number_is_said_to(some_lm: LanguageModel) -> None:
    broken = _single(some_lm, torch.float32)
    broken.architecture.values(1)[:] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        integrated_gradients(broken, [some_lm.encode(*ONE)])


def test_log_probabilities_are_complete_in_nats(some_lm: LanguageModel) -> None:
    prompts = _encoded(some_lm)
    logs = integrated_gradients(some_lm, prompts, measure="log_probability")
    for found, plain in zip(logs, integrated_gradients(some_lm, prompts), strict=True):
        assert found.certified.all()
        assert found.value == pytest.approx(torch.tensor(plain.value).log().item(), rel=1e-6)
        torch.testing.assert_close(found.without, plain.without.log(), rtol=1e-6, atol=1e-6)


def test_the_baselines_are_what_they_say(unlike_lm: LanguageModel) -> None:
    prompts = _encoded(unlike_lm)
    wholes = [HookedIntegrand(unlike_lm, [prompt]).whole for prompt in prompts]
    largest, products = activation(unlike_lm, prompts), grad_x_act(unlike_lm, prompts)
    nodes = integrated_gradients(unlike_lm, prompts, Quadrature("riemann", 1))
    for n, whole in enumerate(wholes):
        assert largest[n].value == products[n].value == pytest.approx(float(whole.values[0]))
        expected = whole.neurons[:, 0].amax(1)
        torch.testing.assert_close(largest[n].scores.double(), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(products[n].scores, nodes[n].scores, atol=1e-7, rtol=1e-4)
        assert not largest[n].certified.any()


def test_scores_by_gradient_are_those_of_a_plain_backward_pass(some_lm: LanguageModel) -> None:
    for question in QUERIES:
        prompt, rows = some_lm.encode(*question), reference_rows(some_lm, some_lm.encode(*question))
        for how, weight in (
            (grad_x_act, lambda a: a),
            (neurgrad, lambda a: 1.0 if a > 0 else -1.0),
        ):
            (found,) = how(some_lm, [prompt])
            expected = gradients.scores(some_lm.model, _projections(some_lm), rows, weight)
            torch.testing.assert_close(found.scores, expected.float(), atol=1e-8, rtol=1e-5)


def test_scores_by_chance_are_each_prompts_own_and_the_seeds(some_lm: LanguageModel) -> None:
    prompts = _encoded(some_lm)
    found = by_chance(some_lm, prompts, seed=1)
    for prompt, one in zip(
        reversed(prompts), by_chance(some_lm, prompts[::-1], seed=1), strict=True
    ):
        assert torch.equal(one.scores, found[prompts.index(prompt)].scores)
    drawn = torch.stack([one.scores.flatten() for one in found])
    other = torch.stack([one.scores.flatten() for one in by_chance(some_lm, prompts, seed=2)])
    both = torch.corrcoef(torch.cat([drawn, other])) - torch.eye(2 * len(prompts))
    assert both.abs().max() < 0.5  # 120 neurons: more than five standard deviations
    assert [one.value for one in found] == [one.value for one in grad_x_act(some_lm, prompts)]


@pytest.mark.parametrize("family", ["gpt2", "gptj", "gpt_neox", "llama", "gemma2", "opt"])
def test_before_the_activation_attributions_are_those_of_a_plain_loop(
    lm_of: Callable[[str], LanguageModel], family: str
) -> None:
    lm = lm_of(family)
    prompt = lm.encode(Query("The capital of France is "), "Paris")
    fixed = Quadrature("linspace", 20)
    (found,) = integrated_gradients(lm, [prompt], fixed, site="pre_activation")
    ids, token = torch.tensor([prompt.prompt_ids]), prompt.target_ids[0]
    for layer in range(lm.architecture.layers):
        module = lm.architecture.pre_activation(layer)
        assert module is not None
        expected = reference.before_the_activation(lm.model, module, ids, token, steps=20)
        torch.testing.assert_close(found.scores[layer].double(), expected, atol=1e-9, rtol=1e-5)
    (complete,) = integrated_gradients(lm, [prompt], site="pre_activation")
    assert complete.certified.all()
    # What is 0 before these activations is 0 behind them: a layer's sum is the same.
    (behind,) = integrated_gradients(lm, [prompt])
    torch.testing.assert_close(complete.without, behind.without)


class _Halves(torch.nn.Module):
    """A linear layer as two of half its size."""

    def __init__(self, whole: torch.nn.Module) -> None:
        super().__init__()
        weights = whole.weight.chunk(2)
        self.gate, self.up = (torch.nn.Linear(*reversed(w.shape), bias=False) for w in weights)
        for half, weight in zip((self.gate, self.up), weights, strict=True):
            half.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.gate(x), self.up(x)], -1)


def test_of_a_fused_projection_the_gate_is_attributed(
    lm_of: Callable[[str], LanguageModel],
) -> None:
    lm = lm_of("phi3")
    prompt = lm.encode(Query("The capital of France is "), "Paris")
    fixed = Quadrature("linspace", 20)
    (found,) = integrated_gradients(lm, [prompt], fixed, site="pre_activation")
    ids, token = torch.tensor([prompt.prompt_ids]), prompt.target_ids[0]
    model = copy.deepcopy(lm.model)
    for layer, block in enumerate(model.model.layers):
        block.mlp.gate_up_proj = _Halves(block.mlp.gate_up_proj)
        gate = block.mlp.gate_up_proj.gate
        expected = reference.before_the_activation(model, gate, ids, token, steps=20)
        torch.testing.assert_close(found.scores[layer].double(), expected, atol=1e-9, rtol=1e-5)


def test_a_masked_lm_is_attributed_behind_its_activation_as_published(
    lm_of: Callable[[str], LanguageModel],
) -> None:
    lm = lm_of("bert")
    prompts = _encoded(lm)
    one, other = (
        integrated_gradients(lm, prompts, Quadrature("linspace", 3), site=site)
        for site in ("activation", "pre_activation")
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.scores, b.scores)
