"""Laws that show the naive ROME right, on tiny random models in double precision."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.reference import rome, scoring
from tests.reference.published_loop import published_delta
from tests.reference.tiny_models import D_FF, MASK, MASKED, MASKS, PROMPT, TARGET, Tiny, build

LAYER = 1
SETTINGS = rome.Settings(
    steps=6, lr=0.3, weight_decay=0.5, kl_factor=5.0, clamp_norm=0.8, early_stop=0.05
)


@pytest.fixture(params=["gpt2", "llama", "bert"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return build(request.param)


def contexts(tiny: Tiny) -> list[rome.Prompt]:
    """The bare prompt (subject at position 2) and the same behind a prefix of two tokens."""
    ids = MASKED if tiny.masked else PROMPT
    masks = MASKS if tiny.masked else ()
    longer = torch.cat([ids[:, :1], torch.tensor([[22, 6]]), ids[:, 1:]], dim=1)
    return [rome.Prompt(ids, 2, masks), rome.Prompt(longer, 4, tuple(m + 2 for m in masks))]


def essence(tiny: Tiny) -> rome.Essence:
    last = [MASK, 4] if tiny.masked else [13]
    return rome.Essence(torch.tensor([[9, 14, 21, *last]]), 1, 3)


def edit(tiny: Tiny, second_moment: torch.Tensor | None = None, **changes: object) -> rome.Edit:
    return rome.rome(
        tiny.model,
        tiny.projections[LAYER],
        contexts(tiny),
        TARGET,
        essence(tiny),
        replace(SETTINGS, **changes),
        second_moment,
    )


def nll(tiny: Tiny, context: rome.Prompt) -> float:
    """Mean over target tokens of -log P, read by the scoring reference."""
    if tiny.masked:
        args = (tiny.model, context.ids, context.mask_positions, TARGET)
        return -sum(scoring.masked_log_prob(*args)) / len(TARGET)
    return -sum(scoring.causal_log_prob(tiny.model, context.ids, TARGET)) / len(TARGET)


@contextmanager
def shifted(layer: nn.Module, position: int, delta: torch.Tensor) -> Iterator[None]:
    """Add delta to one position of the output, as a product with a one-hot column."""

    def shift(_module: nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
        column = torch.zeros(output.shape[1], 1).double()
        column[position] = 1.0
        return output + column * delta

    handle = layer.register_forward_hook(shift)
    yield
    handle.remove()


def positive_definite() -> torch.Tensor:
    root = torch.randn(D_FF, D_FF, generator=torch.Generator().manual_seed(1)).double()
    return root @ root.T + torch.eye(D_FF).double()


def test_the_first_loss_is_the_mean_negative_log_probability(tiny):
    bare, longer = contexts(tiny)
    assert edit(tiny).losses[0] == pytest.approx((nll(tiny, bare) + nll(tiny, longer)) / 2)


def test_the_second_loss_adds_the_divergence_and_the_decay_of_the_first_step(tiny):
    one = edit(tiny, steps=2, clamp_norm=100.0)
    asked, layer = essence(tiny), tiny.projections[LAYER]
    nlls = []
    for context in contexts(tiny):
        with shifted(layer, context.subject_last, one.delta):
            nlls.append(nll(tiny, context))
    with torch.no_grad():
        before = tiny.model(asked.ids).logits[0, asked.read_at]
        with shifted(layer, asked.subject_last, one.delta):
            now = tiny.model(asked.ids).logits[0, asked.read_at]
    divergence = scoring.kl(now, before)
    torch_says = nn.functional.kl_div(
        before.log_softmax(-1), now.log_softmax(-1), log_target=True, reduction="sum"
    )
    assert divergence == pytest.approx(torch_says.item())
    assert divergence > 1e-5
    decay = (one.delta.norm() / one.v0.norm() ** 2).item()
    expected = sum(nlls) / 2 + SETTINGS.kl_factor * divergence + SETTINGS.weight_decay * decay
    assert one.losses[1] == pytest.approx(expected)
    # Adam's first step is lr in every coordinate: steps = 2 means one update.
    torch.testing.assert_close(
        one.delta.abs(), torch.full_like(one.delta, SETTINGS.lr), rtol=1e-3, atol=0
    )


def test_the_loss_falls_and_delta_stays_in_its_ball(tiny):
    gentle = {"weight_decay": 0.0, "lr": 0.1}
    free, held = edit(tiny, clamp_norm=100.0, **gentle), edit(tiny, clamp_norm=0.1, **gentle)
    assert free.losses[-1] < free.losses[0]
    assert len(free.losses) == SETTINGS.steps
    assert held.delta.norm() <= 0.1 * held.v0.norm() * (1 + 1e-12)
    assert free.delta.norm() > 0.1 * free.v0.norm()


def test_a_loss_below_the_early_stop_ends_it_before_the_update(tiny):
    stopped = edit(tiny, early_stop=1e9)
    assert len(stopped.losses) == 1
    assert not stopped.delta.any()


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("key_mode", ["mean", "original"])
def test_the_edited_projection_maps_the_key_to_v_star(tiny, key_mode, whitened):
    done = edit(tiny, positive_definite() if whitened else None, key_mode=key_mode)
    layer = tiny.projections[LAYER]
    key = done.mean_key if key_mode == "mean" else done.bare_key
    before = layer.weight.detach().clone()
    with torch.no_grad():
        assert not torch.allclose(layer(key[None])[0], done.v_star)
        rome.apply_in_place(layer.weight, done.u, done.v, tiny.transposed)
        torch.testing.assert_close(layer(key[None])[0], done.v_star)
    assert torch.linalg.matrix_rank(layer.weight - before, rtol=1e-10) == 1


def test_keys_and_v0_are_what_the_projection_reads_and_writes(tiny):
    seen = []
    handle = tiny.projections[LAYER].register_forward_hook(
        lambda _module, args, output: seen.append((args[0][0], output[0]))
    )
    bare, longer = contexts(tiny)
    with torch.no_grad():
        tiny.model(bare.ids)
        tiny.model(longer.ids)
    handle.remove()
    done = edit(tiny)
    first, second = seen[0][0][2], seen[1][0][4]
    torch.testing.assert_close(done.bare_key, first)
    torch.testing.assert_close(done.mean_key, (first + second) / 2)
    torch.testing.assert_close(done.v0, seen[0][1][2])
    torch.testing.assert_close(done.v_star, done.v0 + done.delta)
    assert not torch.allclose(first, second)


def test_the_update_moves_other_keys_least_in_the_second_moments_norm(tiny):
    """Of all u with u.k = 1, the one taken has the smallest u^T C u: it is stationary there."""
    c = positive_definite()
    done = edit(tiny, c)
    key = done.mean_key
    assert (done.u @ key).item() == pytest.approx(1.0)
    generator = torch.Generator().manual_seed(2)
    for _ in range(5):
        aside = torch.randn(D_FF, generator=generator).double()
        aside -= key * (aside @ key) / (key @ key)
        assert (done.u @ c @ aside).item() == pytest.approx(0.0, abs=1e-9)


def test_original_keys_differ_from_mean_keys_only_in_the_denominator_and_the_residual(tiny):
    mean, original = edit(tiny), edit(tiny, key_mode="original")
    torch.testing.assert_close(mean.delta, original.delta)
    scale = (mean.mean_key @ mean.mean_key) / (mean.bare_key @ mean.mean_key)
    torch.testing.assert_close(original.u, mean.u * scale)
    torch.testing.assert_close(original.v, original.delta)


def test_an_update_by_hand():
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.eye(2), torch.tensor([0.0, 1.0])
    key, v_star = torch.tensor([2.0, 0.0]), torch.tensor([3.0, 5.0])
    u, v = rome.solve(layer, key, key, v_star)
    # W k + b = (2, 1), so v = (1, 4); u = k / 4.
    assert u.tolist() == [0.5, 0.0]
    assert v.tolist() == [1.0, 4.0]
    rome.apply_in_place(layer.weight, u, v, transposed=False)
    assert layer.weight.tolist() == [[1.5, 0.0], [2.0, 1.0]]


def test_planning_leaves_no_hook_no_gradient_and_no_changed_weight(tiny):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    edit(tiny)
    assert not tiny.projections[LAYER]._forward_hooks
    assert not tiny.projections[LAYER]._forward_pre_hooks
    assert all(parameter.grad is None for parameter in tiny.model.parameters())
    assert all(torch.equal(before[name], v) for name, v in tiny.model.state_dict().items())


def test_one_padded_batch_a_step_finds_the_same_delta(tiny: Tiny) -> None:
    if tiny.masked:
        pytest.skip("the published loop is of causal LMs")
    asked = (tiny.model, tiny.projections[LAYER], contexts(tiny), TARGET, essence(tiny), SETTINGS)
    found = published_delta(*asked)
    torch.testing.assert_close(found.delta, edit(tiny).delta)
    # One forward pass of the unchanged model, and no step behind the last loss.
    assert (found.forward, found.backward) == (SETTINGS.steps + 1, SETTINGS.steps - 1)
