"""Adapters are what PEFT trains, and an edit like the others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kn_sweeps.cases import Case, Probe, Query
from kn_sweeps.editing import training
from kn_sweeps.edits import Joint, LowRank, load_edits, parts, save_edits
from kn_sweeps.interventions import applied, merge
from kn_sweeps.methods.lora import Lora
from kn_sweeps.models.asking import Question, ask
from kn_sweeps.models.language_model import LanguageModel

FRANCE = Query("The capital of France is ", ".", (15, 21))
PERU = Query("The capital of Peru is ", ".", (15, 19))
CASES = [
    Case("f0", "P36", "fact", Probe(FRANCE, "Paris", "New Delhi", "edit")),
    Case("f1", "P36", "fact", Probe(PERU, "Lima", "Rome", "edit")),
]
QUESTION = Question(FRANCE, "Paris", "New Delhi")
METHOD = Lora(layers=(0, 2), rank=3, alpha=6.0, epochs=4, learning_rate=1e-2)


def _loss(lm: LanguageModel, model: torch.nn.Module, case: Case) -> torch.Tensor:
    assert case.edit is not None
    encoded = lm.encode(case.edit.query, case.edit.new)
    terms = []
    for row in lm.rows(encoded):
        log_probs = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        terms += [log_probs[p, t] for p, t in zip(row.positions, row.tokens, strict=True)]
    return -torch.stack(terms).mean()


def _by_peft(lm: LanguageModel, method: Lora, cases: list[Case]) -> list[torch.Tensor]:
    """What PEFT's adapters add to the weights (d_ff x d_model), from the same beginning."""
    peft = pytest.importorskip("peft")
    assert method.layers is not None
    model = copy.deepcopy(lm.model)
    own = LanguageModel(model, lm.tokenizer).architecture
    paths = {module: path for path, module in model.named_modules()}
    modules = [paths[own.mlp_output(layer)] for layer in method.layers]
    transposed = lm.architecture.mlp_output(0).weight.shape[0] == lm.architecture.d_ff
    config = peft.LoraConfig(
        r=method.rank, lora_alpha=method.alpha, target_modules=modules, fan_in_fan_out=transposed
    )
    peft.inject_adapter_in_model(config, model)
    begun = method.begun(lm, len(modules), 7, cases[0].id)
    adapted = [model.get_submodule(path) for path in modules]
    for n, module in enumerate(adapted):
        a = module.lora_A["default"].weight
        a.data = begun[n, :, : lm.architecture.d_ff].to(a.dtype).clone()
        module.double()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 2 * len(modules)
    adam = torch.optim.Adam(trained, lr=method.learning_rate)
    for _ in range(method.epochs):
        loss = torch.stack([_loss(lm, model, case) for case in cases]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    deltas = [module.get_delta_weight("default").detach() for module in adapted]
    return [delta if transposed else delta.T for delta in deltas]


def _agree(edit: Joint | object, expected: list[torch.Tensor]) -> None:
    assert isinstance(edit, Joint)
    for part, delta in zip(parts(edit), expected, strict=True):
        assert isinstance(part, LowRank)
        change = (part.u.T @ part.v).double()
        assert float((change - delta).norm() / delta.norm()) < 1e-4


def test_an_edit_alone_is_what_peft_trains(
    some_lm: LanguageModel, weights_kept: Callable[[LanguageModel], None]
) -> None:
    weights_kept(some_lm)
    edits = METHOD.plan(some_lm, CASES, seed=7).edits
    for case in CASES:
        _agree(edits[case.id], _by_peft(some_lm, METHOD, [case]))


def test_a_batch_is_trained_as_one(some_lm: LanguageModel) -> None:
    first, second = METHOD.plan(some_lm, CASES, seed=7, together=True).edits.values()
    _agree(first, _by_peft(some_lm, METHOD, CASES))
    assert isinstance(second, Joint)
    assert not second.parts


def test_before_the_first_step_it_is_no_change_and_ranks_are_kept(some_lm: LanguageModel) -> None:
    begun = METHOD.begun(some_lm, 2, 0, "f0")
    a, b = begun.split([some_lm.architecture.d_ff, some_lm.architecture.d_model], -1)
    assert not b.any()
    assert float(a.abs().max()) <= some_lm.architecture.d_ff**-0.5
    every = Lora(epochs=1).plan(some_lm, CASES[:1]).edits["f0"]
    assert [(p.layer, len(p.u)) for p in parts(every) if isinstance(p, LowRank)] == [
        (layer, 8) for layer in range(some_lm.architecture.layers)
    ]


def test_it_answers_by_hook_and_written_into_the_weights_and_read_back(
    some_lm: LanguageModel, tmp_path: Path
) -> None:
    edit = Lora(epochs=30, learning_rate=1e-2).plan(some_lm, CASES[:1]).edits["f0"]
    save_edits(tmp_path / "edits", {"f0": edit})
    (before,) = ask(some_lm, [QUESTION])
    with applied(some_lm, edit):
        (hooked,) = ask(some_lm, [QUESTION])
    assert hooked.new.exact
    assert not before.new.exact
    copied = LanguageModel(copy.deepcopy(some_lm.model), some_lm.tokenizer)
    merge(copied, load_edits(tmp_path / "edits")["f0"])
    (merged,) = ask(copied, [QUESTION])
    assert merged.new.log_prob == pytest.approx(hooked.new.log_prob, abs=1e-5)
    (after,) = ask(some_lm, [QUESTION])
    assert after.new.log_probs == before.new.log_probs


def test_it_stops_where_the_answer_is_learnt(
    causal_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = Lora(epochs=60, learning_rate=1e-2)
    (before,) = ask(causal_lm, [QUESTION])
    begins = -before.new.log_prob / len(before.new.ids)
    found = []
    for enough in (begins / 2, 1e-9):
        monkeypatch.setattr(training, "_ENOUGH", enough)
        with applied(causal_lm, method.plan(causal_lm, CASES[:1]).edits["f0"]):
            (reply,) = ask(causal_lm, [QUESTION])
        found.append(-reply.new.log_prob / len(reply.new.ids))
    assert begins / 4 < found[0] < begins / 2
    assert found[1] < begins / 4


def test_impossible_settings_are_refused(causal_lm: LanguageModel) -> None:
    with pytest.raises(ValueError, match="rank must be above 0, got 0"):
        Lora(rank=0)
    with pytest.raises(ValueError, match="layers must name one at least"):
        Lora(layers=())
    with pytest.raises(ValueError, match="ascending order"):
        Lora(layers=(1, 1))
    with pytest.raises(ValueError, match="layer 9 does not exist"):
        Lora(layers=(9,)).plan(causal_lm, CASES)
