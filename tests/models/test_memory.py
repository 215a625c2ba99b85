"""What a model needs of memory is counted, not guessed; rows that do not fit are not tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kn_sweeps.models import language_model as module
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.memory import Needs, Work, free_memory, in_all, shape_of, shape_of_config
from kn_sweeps.models.sizes import SIZES

PUBLISHED = {
    "openai-community/gpt2-xl": 1_557_611_200,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "google-bert/bert-base-cased": 108_340_804,
    "smollm2_135m": 134_515_008,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_alone_tells_how_many_weights_there_are(name: str) -> None:
    found = shape_of_config(SIZES[name], "bfloat16")
    assert found.parameters == PUBLISHED[name]
    assert found.weights == pytest.approx(2 * PUBLISHED[name], rel=1e-3)


def test_a_model_without_numbers_counts_what_the_model_itself_does(some_lm: LanguageModel) -> None:
    real = shape_of(some_lm.model, some_lm.architecture)
    told = shape_of_config(some_lm.model.config.to_dict(), "float32")
    assert (told.parameters, told.largest, told.d_ff) == (
        real.parameters,
        real.largest,
        real.d_ff,
    )
    # It is in double, the config's in single precision. What attention keeps differs between
    # devices, and is a larger share of so narrow a model.
    assert told.block == pytest.approx(real.block / 2, rel=0.3)
    assert told.keys == real.keys


def test_what_blocks_keep_is_what_a_pass_keeps_for_its_gradients(some_lm: LanguageModel) -> None:
    lm, rows, tokens = some_lm, 3, 7
    own = {one.data_ptr() for one in [*lm.model.parameters(), *lm.model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def leaf(_module: object, _args: object, output: torch.Tensor) -> torch.Tensor:
        return output.detach().requires_grad_()

    handle = lm.architecture.embeddings.register_forward_hook(leaf)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        lm.architecture.base(input_ids=torch.full((rows, tokens), 6))
    handle.remove()
    found = sum(one.untyped_storage().nbytes() for one in kept.values())
    shape = lm.shape
    assert rows * tokens * shape.layers * shape.block == pytest.approx(found, rel=0.2)


def test_a_row_attends_to_more_with_what_was_recorded_before_it(some_lm: LanguageModel) -> None:
    shape = some_lm.shape
    more = shape.kept(1, 1, 10, shape.layers) - shape.kept(1, 1, 4, shape.layers)
    # One token of a masked LM's row is all of them.
    assert more == (6 * shape.layers * shape.block if shape.masked else shape.cache(1, 6))
    assert shape.kept(2, 3, 4, 1) == 2 * shape.kept(1, 3, 4, 1)


def test_all_is_the_model_and_what_is_there_beside_it(some_lm: LanguageModel) -> None:
    shape, work = some_lm.shape, Work(batch_size=1)
    found = in_all(shape, Needs(activations=10**9, statistics=5, edits=7), work)
    parts = ("weights", "activations", "statistics", "edits", "answers")
    assert found["all"] == sum(found[part] for part in parts)
    assert found["activations"] == 10**9
    scoring = in_all(shape, Needs(), work)["activations"]
    assert in_all(shape, Needs(), replace(work, batch_size=8))["activations"] > scoring > 0


def test_rows_are_halved_until_they_fit(
    some_lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_memory", lambda _device: 1000)
    assert some_lm.fitting(64) == 64
    assert some_lm.fitting(64, 10) == 64
    assert some_lm.fitting(64, 20) == 32
    assert some_lm.fitting(64, 10**6) == 1
    monkeypatch.setattr(module, "free_memory", lambda _device: None)
    assert some_lm.fitting(64, 10**6) == 64


def test_this_machine_tells_what_is_free() -> None:
    free = free_memory(torch.device("cpu"))
    assert free is None or free > 2**20
