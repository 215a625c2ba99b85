"""Laws that show the naive references right, on tiny random models in double precision.

LLaMA's norm computes in single precision in any model: there, about 1e-6 is noise.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.reference import integrated_gradients as ig
from tests.reference import scoring
from tests.reference.reading import Row
from tests.reference.tiny_models import (
    D_FF,
    MASK,
    MASKED,
    MASKS,
    PROMPT,
    TARGET,
    VOCAB,
    Tiny,
    build,
)

LAYERS = range(3)


@pytest.fixture(params=["gpt2", "llama"])
def causal(request: pytest.FixtureRequest) -> Tiny:
    return build(request.param)


@pytest.fixture
def masked() -> Tiny:
    return build("bert")


@pytest.fixture(params=["gpt2", "llama", "bert"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return build(request.param)


def joint_log_prob(tiny: Tiny) -> float:
    if tiny.masked:
        return sum(scoring.masked_log_prob(tiny.model, MASKED, MASKS, TARGET))
    return sum(scoring.causal_log_prob(tiny.model, PROMPT, TARGET))


# Scoring


def test_causal_log_probs_sum_to_the_models_own_loss(causal):
    ids = torch.cat([PROMPT, torch.tensor([TARGET])], dim=1)
    labels = ids.clone()
    labels[:, : PROMPT.shape[1]] = -100
    loss = causal.model(ids, labels=labels).loss.item()
    log_probs = scoring.causal_log_prob(causal.model, PROMPT, TARGET)
    assert len(log_probs) == len(TARGET)
    assert sum(log_probs) == pytest.approx(-len(TARGET) * loss)


def test_masked_log_probs_are_the_models_own_losses_with_gold_pieces_revealed(masked):
    ids, losses = MASKED.clone(), []
    for position, token in zip(MASKS, TARGET, strict=True):
        labels = torch.full_like(ids, -100)
        labels[0, position] = token
        losses.append(masked.model(ids, labels=labels).loss.item())
        ids[0, position] = token
    log_probs = scoring.masked_log_prob(masked.model, MASKED, MASKS, TARGET)
    assert log_probs == pytest.approx([-loss for loss in losses])
    assert MASKED[0, list(MASKS)].tolist() == [MASK] * 3


def test_causal_greedy_is_what_generate_says(causal):
    out = causal.model.generate(
        PROMPT,
        attention_mask=torch.ones_like(PROMPT),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
    )
    assert scoring.causal_greedy(causal.model, PROMPT, 6) == out[0, PROMPT.shape[1] :].tolist()


def test_masked_greedy_takes_the_best_piece_given_those_before_it(masked):
    differs_from_filling_all_at_once = 0
    for word in range(8):
        ids = MASKED.clone()
        ids[0, 1] = 5 + word
        answer = scoring.masked_greedy(masked.model, ids, MASKS)
        for i in range(len(MASKS)):
            scores = [
                scoring.masked_log_prob(masked.model, ids, MASKS[: i + 1], [*answer[:i], token])[i]
                for token in range(VOCAB)
            ]
            assert scores[answer[i]] == max(scores)
        at_once = masked.model(ids).logits[0, list(MASKS)].argmax(-1).tolist()
        differs_from_filling_all_at_once += answer != at_once
    assert differs_from_filling_all_at_once


def test_kl_is_torchs_and_not_symmetric():
    p, q = torch.tensor([0.0, math.log(3.0)]), torch.zeros(2)
    assert scoring.kl(p, q) == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert scoring.kl(q, p) == pytest.approx(0.5 * math.log(2.0) + 0.5 * math.log(2 / 3))
    assert scoring.kl(p, p + 5.0) == pytest.approx(0.0, abs=1e-7)


def test_pseudo_log_likelihood_sums_single_mask_losses(masked):
    ids = torch.tensor([[2, 9, 14, 20, 4]])
    total = 0.0
    for position in (1, 2, 3):
        one = ids.clone()
        one[0, position] = MASK
        total += scoring.masked_log_prob(masked.model, one, [position], [int(ids[0, position])])[0]
    assert scoring.pseudo_log_likelihood(masked.model, ids, MASK, {0, 4}) == pytest.approx(total)


# Integrated gradients


def test_probability_at_one_is_the_scored_joint_probability(tiny):
    for layer in LAYERS:
        p = ig.probability_at(tiny.model, tiny.projections, layer, tiny.rows, 1.0)
        assert math.log(p) == pytest.approx(joint_log_prob(tiny))


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_exactly_the_answer_positions_of_one_layer_are_scaled(tiny, alpha):
    layer, log_prob = 1, 0.0
    for row in tiny.rows:
        scale = torch.ones(row.ids.shape[1], 1).double()
        for position in row.positions:
            scale[position] = alpha
        handle = tiny.projections[layer].register_forward_pre_hook(
            lambda _module, args, scale=scale: (args[0] * scale,)
        )
        log_probs = tiny.model(row.ids).logits[0].log_softmax(-1)
        log_prob += sum(
            log_probs[p, t].item() for p, t in zip(row.positions, row.tokens, strict=True)
        )
        handle.remove()
    p = ig.probability_at(tiny.model, tiny.projections, layer, tiny.rows, alpha)
    assert math.log(p) == pytest.approx(log_prob, rel=1e-9)
    assert abs(log_prob - joint_log_prob(tiny)) > 1e-3


@pytest.mark.parametrize("layer", LAYERS)
def test_attributions_converge_to_completeness_the_midpoint_faster(tiny, layer):
    args = (tiny.model, tiny.projections, layer, tiny.rows)
    change = ig.probability_at(*args, 1.0) - ig.probability_at(*args, 0.0)

    def error(rule, steps):
        return abs(rule(*args, steps).sum().item() - change) / abs(change)

    # Four times the steps, or twice the midpoints: about a quarter of the error.
    assert error(ig.riemann_batched, 80) < 0.3 * error(ig.riemann_batched, 20)
    assert error(ig.midpoint, 20) < 0.3 * error(ig.midpoint, 10)
    assert error(ig.midpoint, 20) < 0.3 * error(ig.riemann_batched, 20)
    assert error(ig.midpoint, 20) < 0.02


def test_batched_steps_equal_one_step_at_a_time(tiny):
    slow = ig.knowledge_neurons_reference(tiny.model, tiny.projections, tiny.rows, rule=ig.riemann)
    fast = ig.knowledge_neurons_reference(tiny.model, tiny.projections, tiny.rows)
    assert slow.shape == (len(LAYERS), D_FF)
    assert slow.abs().max() > 1e-9
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-15)


def test_one_riemann_step_is_the_activation_times_a_finite_difference(tiny):
    layer, eps = 1, 1e-2
    args = (tiny.model, tiny.projections, layer, tiny.rows)
    slope = (ig.probability_at(*args, 1 + eps) - ig.probability_at(*args, 1 - eps)) / (2 * eps)
    assert ig.riemann(*args, steps=1).sum().item() == pytest.approx(slope, rel=1e-3)


def test_references_leave_no_hook_no_gradient_and_no_changed_weight(tiny):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    ig.knowledge_neurons_reference(tiny.model, tiny.projections, tiny.rows, steps=2)
    for projection in tiny.projections:
        assert not projection._forward_pre_hooks
        assert not projection._forward_hooks
    assert all(parameter.grad is None for parameter in tiny.model.parameters())
    assert all(torch.equal(before[name], v) for name, v in tiny.model.state_dict().items())


class OneNeuron(nn.Module):
    """Logits (w a, 0) from a single neuron of value a, so that P(token 0) = sigmoid(w a)."""

    def __init__(self, a: float, w: float) -> None:
        """Fix the neuron's value and its weight."""
        super().__init__()
        self.a = a
        self.down = nn.Linear(1, 2, bias=False).double()
        self.down.weight.data = torch.tensor([[w], [0.0]], dtype=torch.float64)

    def forward(self, ids: torch.Tensor) -> SimpleNamespace:
        """The same neuron at every position."""
        return SimpleNamespace(logits=self.down(torch.full((*ids.shape, 1), self.a).double()))


def test_one_neuron_by_hand():
    a, w = 1.5, 2.0
    model, rows = OneNeuron(a, w), [Row(torch.tensor([[0]]), (0,), (0,))]
    args = (model, [model.down], 0, rows)

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def slope(alpha):
        return a * w * sigmoid(alpha * w * a) * (1 - sigmoid(alpha * w * a))

    assert ig.probability_at(*args, 0.0) == pytest.approx(0.5)
    assert ig.riemann(*args, steps=2).item() == pytest.approx((slope(0.5) + slope(1.0)) / 2)
    assert ig.midpoint(*args, steps=2).item() == pytest.approx((slope(0.25) + slope(0.75)) / 2)
    assert ig.midpoint(*args, steps=500).item() == pytest.approx(sigmoid(w * a) - 0.5, rel=1e-5)
