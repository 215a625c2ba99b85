"""Hooks leave no trace, whatever happens between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kn_sweeps.models.hooks import Hooks, first_of
from kn_sweeps.models.language_model import LanguageModel


def _hooked(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def test_hooks_change_what_goes_in_and_out_inside_the_block_only() -> None:
    module, x = nn.Linear(3, 3), torch.randn(2, 3)
    before = module(x)
    with Hooks() as hooks:
        hooks.on_input(module, lambda _module, args: (2 * args[0],))
        hooks.on_output(module, lambda _module, _args, output: output + 1)
        torch.testing.assert_close(module(x), 2 * before - module.bias + 1)
    assert torch.equal(module(x), before)


def test_keyword_arguments_are_seen_and_changed_where_they_are_asked_for() -> None:
    module, seen = nn.Identity(), []
    module.forward = lambda x, *, factor: factor * x  # type: ignore[assignment]
    with Hooks() as hooks:
        hooks.on_input(module, lambda _m, args, _kwargs: (args, {"factor": 3}), with_kwargs=True)
        hooks.on_output(module, lambda _m, _args, output: seen.append(output))
        assert module(torch.tensor(2), factor=1) == 6
    assert seen == [6]


def _fail_with_hooks(module: nn.Module, error: BaseException) -> None:
    with Hooks() as hooks:
        hooks.on_input(module, lambda *_: None)
        hooks.on_output(module, lambda *_: None)
        assert _hooked(module) == 2
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_gone_after_an_exception(error: type[BaseException]) -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(error):
        _fail_with_hooks(module, error())
    assert not _hooked(module)


def _hook_what_is_no_module(module: nn.Module) -> None:
    with Hooks() as hooks:
        hooks.on_output(module, lambda *_: None)
        hooks.on_output("nothing", lambda *_: None)  # type: ignore[arg-type]


def test_one_that_cannot_be_added_leaves_none_behind() -> None:
    module = nn.Linear(1, 1)
    with pytest.raises(AttributeError):
        _hook_what_is_no_module(module)
    assert not _hooked(module)


def test_the_first_of_several_outputs_is_the_hidden_state() -> None:
    hidden = torch.randn(2)
    assert first_of(hidden) is hidden
    assert first_of((hidden, None)) is hidden


def test_a_blocks_sum_is_seen_and_gives_its_output(any_lm: LanguageModel) -> None:
    parts = any_lm.architecture
    sums: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []
    with torch.no_grad(), Hooks() as hooks:
        parts.watch_sum(hooks, 1, sums.append)
        hooks.on_output(parts.blocks[1], lambda _m, _args, output: outputs.append(first_of(output)))
        any_lm.hidden(any_lm.batch([(5, 6, 7)]))
    assert not any(map(_hooked, parts.base.modules()))
    torch.testing.assert_close(parts.from_sum(1, sums[0]), outputs[0], rtol=0, atol=0)
