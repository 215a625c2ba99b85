"""Attributions are complete and agree with the per-layer loop."""

from __future__ import annotations

import pytest
import torch

from kn_sweeps.attribution.integrated_gradients import integrated_gradients
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.cases import Query
from kn_sweeps.edits import NeuronScale
from kn_sweeps.interventions import applied
from kn_sweeps.models.language_model import LanguageModel
from tests.reference import integrated_gradients as reference
from tests.reference.reading import Row, causal_rows, masked_rows

QUERIES = [
    (Query("The capital of France is ", ".", (15, 21)), "Paris"),
    (Query("The capital of India is ", " ."), "New Delhi"),
]
FINE = Quadrature(nodes=24)


def _reference_rows(lm: LanguageModel, query: Query, target: str) -> list[Row]:
    encoded = lm.encode(query, target)
    if lm.kind == "causal":
        return causal_rows(torch.tensor([encoded.prompt_ids]), encoded.target_ids)
    ids = torch.tensor([encoded.ids])
    positions = list(range(*encoded.target))
    ids[0, positions] = lm.tokenizer.mask_token_id
    return masked_rows(ids, positions, encoded.target_ids)


def _projections(lm: LanguageModel) -> list[torch.nn.Module]:
    return [lm.architecture.mlp_output(layer) for layer in range(lm.architecture.layers)]


@pytest.mark.parametrize(("query", "target"), QUERIES)
def test_every_layer_is_complete(any_lm: LanguageModel, query: Query, target: str) -> None:
    result = integrated_gradients(any_lm, any_lm.encode(query, target), FINE)
    change = result.probability - result.without
    assert (result.residual <= 1e-3 * change.abs().clamp(min=1e-6)).all()
    rows = _reference_rows(any_lm, query, target)
    for layer in range(any_lm.architecture.layers):
        at = [
            reference.probability_at(any_lm.model, _projections(any_lm), layer, rows, alpha)
            for alpha in (1.0, 0.0)
        ]
        assert result.probability == pytest.approx(at[0], rel=1e-5)
        assert float(result.without[layer]) == pytest.approx(at[1], rel=1e-5)


@pytest.mark.parametrize(("query", "target"), QUERIES)
def test_riemann_equals_the_reference_with_the_same_steps(
    some_lm: LanguageModel, query: Query, target: str
) -> None:
    found = integrated_gradients(some_lm, some_lm.encode(query, target), Quadrature("riemann", 20))
    expected = reference.knowledge_neurons_reference(
        some_lm.model, _projections(some_lm), _reference_rows(some_lm, query, target), steps=20
    )
    torch.testing.assert_close(found.scores, expected.float(), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("query", "target"), QUERIES)
def test_the_reference_converges_to_gauss_legendre(
    some_lm: LanguageModel, query: Query, target: str
) -> None:
    found = integrated_gradients(some_lm, some_lm.encode(query, target), FINE).scores
    rows = _reference_rows(some_lm, query, target)
    errors = []
    for steps in (10, 40, 160):
        rule = reference.midpoint
        expected = torch.stack(
            [
                rule(some_lm.model, _projections(some_lm), layer, rows, steps=steps)
                for layer in range(some_lm.architecture.layers)
            ]
        )
        errors.append(float((found - expected).abs().max() / expected.abs().max()))
    assert errors[0] > 4 * errors[1]
    assert errors[2] < 1e-3


def test_the_number_of_rows_at_a_time_changes_nothing(some_lm: LanguageModel) -> None:
    encoded = some_lm.encode(*QUERIES[1])
    whole = integrated_gradients(some_lm, encoded, Quadrature())
    for max_rows in (1, 7):
        found = integrated_gradients(some_lm, encoded, Quadrature(), max_rows=max_rows)
        torch.testing.assert_close(found.scores, whole.scores, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(found.without, whole.without, atol=1e-6, rtol=1e-5)


def test_a_silent_neuron_has_no_attribution(some_lm: LanguageModel) -> None:
    with applied(some_lm, NeuronScale(((1, 5), (2, 11)), 0.0)):
        scores = integrated_gradients(some_lm, some_lm.encode(*QUERIES[0]), Quadrature()).scores
    assert scores[1, 5] == 0
    assert scores[2, 11] == 0
    assert (scores != 0).sum() > 60


def test_too_few_nodes_show_in_the_residual(lm_of) -> None:  # noqa: ANN001
    lm = lm_of("gpt2")
    encoded = lm.encode(*QUERIES[0])
    coarse = integrated_gradients(lm, encoded, Quadrature("riemann", 2)).residual.max()
    assert coarse > 100 * integrated_gradients(lm, encoded, FINE).residual.max()


@pytest.mark.parametrize("nodes", [1, 4, 9])
def test_gauss_legendre_is_exact_for_polynomials(nodes: int) -> None:
    points, weights = Quadrature(nodes=nodes).points()
    for degree in range(2 * nodes):
        value = sum(w * x**degree for x, w in zip(points, weights, strict=True))
        assert value == pytest.approx(1 / (degree + 1))


def test_an_unknown_rule_names_the_choices() -> None:
    with pytest.raises(ValueError, match="choose from gauss_legendre, riemann"):
        Quadrature("simpson")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one node"):
        Quadrature(nodes=0)


def test_layers_that_fail_get_more_nodes(some_lm: LanguageModel) -> None:
    encoded = some_lm.encode(*QUERIES[0])
    once = integrated_gradients(some_lm, encoded, Quadrature(nodes=1))
    refined = integrated_gradients(some_lm, encoded, Quadrature(nodes=1, max_nodes=64))
    fine = integrated_gradients(some_lm, encoded, FINE)
    wanted = 1e-3 * (fine.probability - fine.without).abs().clamp(min=1e-6)
    assert (once.residual > wanted + 1e-5).any()
    assert (refined.residual <= wanted + 1e-5).all()
    torch.testing.assert_close(refined.scores, fine.scores, atol=1e-4, rtol=1e-2)
