"""Logarithms and differences of logits are attributed as probabilities are."""

from __future__ import annotations

import copy

import pytest
import torch

from kn_sweeps.attribution.attributor import Attributor
from kn_sweeps.attribution.baselines import activation, grad_x_act
from kn_sweeps.attribution.contrast import Contrasted, contrasted
from kn_sweeps.attribution.hooked import HookedIntegrand
from kn_sweeps.attribution.integrand import Measure, Point
from kn_sweeps.attribution.integrated_gradients import integrand_of, integrated_gradients
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.attribution.stepped import SteppedIntegrand
from kn_sweeps.cases import Query
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.tokenization import Encoded
from tests.reference import integrated_gradients as reference
from tests.reference.reading import Row

QUERY = Query("The capital of France is ", " .")
PAIRS = [("Paris", "Rome"), ("New Delhi", "Rome"), ("New Delhi", "New Paris")]


def _prompts(lm: LanguageModel) -> list[Contrasted]:
    return [contrasted(lm, QUERY, *pair) for pair in PAIRS]


def _rows(lm: LanguageModel, prompt: Encoded) -> list[Row]:
    rows = lm.rows(prompt)[: 1 if isinstance(prompt, Contrasted) else None]
    return [Row(torch.tensor([row.ids]), row.positions, row.tokens) for row in rows]


def test_a_contrast_is_read_at_the_first_token_that_differs(some_lm: LanguageModel) -> None:
    word = some_lm.tokenizer.get_vocab()
    for (target, rival), prompt in zip(PAIRS, _prompts(some_lm), strict=True):
        a, b = (some_lm.encode(QUERY, answer).target_ids for answer in (target, rival))
        n = next(i for i in range(len(a)) if a[i] != b[i])
        assert (prompt.target_ids[0], prompt.rival) == (a[n], b[n])
        (row,) = _rows(some_lm, prompt)
        assert row.tokens == (a[n],)
        shown = [some_lm.tokenizer.decode(i) for i in row.ids[0].tolist()]
        masks = len(a) - n if some_lm.kind == "masked" else 0
        assert shown.count("[MASK]") == masks
        assert ("New" in shown) == (n == 1)
    assert word["Delhi"] in _prompts(some_lm)[2].target_ids


@pytest.mark.parametrize("pair", [("New Delhi", "New"), ("New", "New Delhi"), ("Rome", "Rome")])
def test_answers_that_no_token_tells_apart_are_refused(
    causal_lm: LanguageModel, pair: tuple[str, str]
) -> None:
    with pytest.raises(ValueError, match="no token tells .* use another measure"):
        contrasted(causal_lm, QUERY, *pair)


def test_a_logit_difference_of_one_answer_is_refused(some_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="one between two answers"):
        Attributor(measure="logit_difference")(some_lm, [some_lm.encode(QUERY, "Paris")])


@pytest.mark.parametrize("measure", ["log_probability", "logit_difference"])
def test_the_reference_converges_to_it(some_lm: LanguageModel, measure: Measure) -> None:
    prompt = _prompts(some_lm)[2]
    rival = prompt.rival
    of = reference.log_probability
    if measure == "logit_difference":
        of = reference.logit_difference(rival)
    (found,) = integrated_gradients(some_lm, [prompt], Quadrature(tol=1e-6), measure=measure)
    assert found.certified.all()
    projections = [some_lm.architecture.mlp_output(n) for n in range(len(found.scores))]
    errors = []
    for steps in (10, 40):
        expected = torch.stack(
            [
                reference.midpoint(some_lm.model, projections, n, _rows(some_lm, prompt), steps, of)
                for n in range(len(projections))
            ]
        )
        errors.append(float((found.scores - expected).norm() / expected.norm()))
    assert errors[0] > 3 * errors[1]
    assert errors[1] < 2e-3


def test_differences_of_logits_are_those_of_the_model_and_complete(
    unlike_lm: LanguageModel,
) -> None:
    prompts = _prompts(unlike_lm)
    for prompt, found in zip(
        prompts,
        integrated_gradients(unlike_lm, prompts, measure="logit_difference"),
        strict=True,
    ):
        (row,) = _rows(unlike_lm, prompt)
        logits = unlike_lm.model(row.ids).logits[0, row.positions[0]]
        difference = float(logits[prompt.target_ids[0]] - logits[prompt.rival])
        assert found.value == pytest.approx(difference, rel=1e-6)
        sure = found.certified
        change = found.value - found.without
        # OPT's ReLU has kinks; GPT-J turns keys in single precision, which a layer shows whose
        # neurons add up to nothing.
        needed = sure | (change.abs() < 1e-5)
        assert needed.all() or unlike_lm.architecture.model_type == "opt"
        assert sure.any()
        off = (found.scores.double().sum(1) - change).abs()
        assert (off <= 1e-3 * change.abs() + 1e-5)[sure].all()


def test_rows_that_join_at_their_layer_equal_whole_rows(unlike_lm: LanguageModel) -> None:
    if not unlike_lm.can_be_stepped:
        pytest.skip("its blocks are not stepped")
    prompts = _prompts(unlike_lm)
    whole = HookedIntegrand(unlike_lm, prompts, "logit_difference")
    stepped = integrand_of(unlike_lm, prompts, "logit_difference")
    assert isinstance(stepped, SteppedIntegrand)
    torch.testing.assert_close(stepped.whole.gradients, whole.whole.gradients)
    points = [Point(n % 3, n % unlike_lm.architecture.layers, n / 7) for n in range(7)]
    for found, expected in zip(stepped.at(points), whole.at(points), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-7)


def test_the_two_answers_may_change_places(some_lm: LanguageModel) -> None:
    there, back = (contrasted(some_lm, QUERY, *pair) for pair in (PAIRS[0], PAIRS[0][::-1]))
    for how in (integrated_gradients, grad_x_act):
        one, other = how(some_lm, [there, back], measure="logit_difference")
        assert one.value == pytest.approx(-other.value)
        torch.testing.assert_close(one.scores, -other.scores)
    one, other = activation(some_lm, [there, back], measure="logit_difference")
    assert torch.equal(one.scores, other.scores)


def test_in_single_precision_it_is_the_same(some_lm: LanguageModel) -> None:
    single = LanguageModel(copy.deepcopy(some_lm.model).float(), some_lm.tokenizer)
    (found,) = integrated_gradients(single, _prompts(single)[:1], measure="logit_difference")
    (exact,) = integrated_gradients(some_lm, _prompts(some_lm)[:1], measure="logit_difference")
    assert found.certified.all()
    assert float((found.scores - exact.scores).norm() / exact.scores.norm()) < 2e-3


def test_a_pair_of_answers_is_cached_as_that_pair(causal_lm: LanguageModel) -> None:
    attributor = Attributor("grad_x_act", "logit_difference")
    one, other, again = attributor(
        causal_lm,
        [contrasted(causal_lm, QUERY, "Paris", rival) for rival in ("Rome", "Lima", "Rome")],
    )
    assert one is again
    assert not torch.equal(one.scores, other.scores)
