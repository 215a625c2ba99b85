"""Double precision is that of the model in double, without a copy of it."""

from __future__ import annotations

import copy

import pytest
import torch

from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.precision import in_double

IDS = torch.tensor([[6, 9, 12, 7, 20]])


def _states_and_gradient(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        leaf = model.get_input_embeddings()(IDS)
    leaf = leaf.detach().requires_grad_()
    logits = model(inputs_embeds=leaf).logits
    (gradient,) = torch.autograd.grad(logits.log_softmax(-1)[0, -1, 5], leaf)
    return logits.detach(), gradient


@pytest.mark.parametrize("whole", [False, True])
def test_it_computes_what_the_model_would_in_double(some_lm: LanguageModel, whole: bool) -> None:
    single = copy.deepcopy(some_lm.model).float()
    double = copy.deepcopy(single).double()
    expected = _states_and_gradient(double)
    with in_double(single, whole=whole):
        found = _states_and_gradient(single)
    assert single.dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        # A norm of LLaMA's goes through float32 in the plain model, and does not here.
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    rough = _states_and_gradient(single)
    if some_lm.name != "llama":
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert not torch.allclose(rough[0].double(), expected[0], rtol=1e-12, atol=1e-12)


def test_weights_are_double_one_at_a_time_and_stay_what_they_are(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = copy.deepcopy(some_lm.model).float()
    places = {name: one.data_ptr() for name, one in single.named_parameters()}
    kept: list[object] = []
    own = torch.autograd.graph.saved_tensors_hooks

    def watched(pack, unpack):  # type: ignore[no-untyped-def]
        def keep(tensor: torch.Tensor) -> object:
            kept.append(pack(tensor))
            return kept[-1]

        return own(keep, unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", watched)
    with in_double(single):
        _states_and_gradient(single)
    sizes = {tuple(one.shape) for one in single.parameters() if one.dim() > 1}
    sizes |= {size[::-1] for size in sizes}
    held = [one for one in kept if isinstance(one, torch.Tensor) and tuple(one.shape) in sizes]
    assert len(kept) > 10
    assert not held
    assert all(one.dtype == torch.float32 for one in single.parameters())
    assert {name: one.data_ptr() for name, one in single.named_parameters()} == places
