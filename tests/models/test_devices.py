"""A model that is spread over devices, or whose weights are fetched, gives what it gives whole."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from transformers import PreTrainedModel

from kn_sweeps.attribution.integrated_gradients import integrated_gradients
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.editing.second_moment import TextSource, second_moments
from kn_sweeps.edits import NeuronScale
from kn_sweeps.interventions import merge
from kn_sweeps.models.devices import is_dispatched, is_fetched, mapped
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.pretrained import Pretrained
from tests.conftest import WORDS, random_lm
from tests.models.alike import QUERY, edited, located
from tests.models.elsewhere import devices

CASES = [("fetched", "gpt2"), ("spread", "llama"), ("spread", "bert")]
LAWFUL = [("fetched", "bert"), ("fetched", "opt"), ("spread", "falcon"), ("spread", "gemma3_text")]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextSource:
    """Texts of random words, enough for a positive definite moment."""
    monkeypatch.setenv("KN_SWEEPS_CACHE", str(tmp_path / "cache"))
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(len(WORDS), (80, 9), generator=draw).tolist()
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(" ".join(WORDS[i] for i in row) for row in words))
    return TextSource(str(path))


def _map(lm: LanguageModel, *where: Any) -> dict[str, Any]:
    """Blocks in turn, all beside them on the first."""
    blocks = {id(block): n for n, block in enumerate(lm.architecture.blocks)}
    found: dict[str, Any] = {}
    for name, module in lm.model.named_modules():
        inside = any(name.startswith(f"{one}.") for one in found)
        around = any(id(one) in blocks for one in module.modules()) and id(module) not in blocks
        if not inside and not around:
            found[name] = where[blocks.get(id(module), 0) % len(where)]
    return found


@contextmanager
def _dispatched(how: str, family: str) -> Iterator[tuple[LanguageModel, LanguageModel]]:
    """A model whole, and dispatched."""
    whole = random_lm(family)
    model: PreTrainedModel = copy.deepcopy(whole.model)
    with devices():
        if how == "fetched":
            model = cpu_offload(model, torch.device("cpu"))
        else:
            model = dispatch_model(model, _map(whole, "elsewhere:0", "elsewhere:1"))
        yield whole, LanguageModel(model, whole.tokenizer, name=whole.name)


@pytest.fixture(params=CASES, ids=" ".join)
def both(request: pytest.FixtureRequest) -> Iterator[tuple[LanguageModel, LanguageModel]]:
    with _dispatched(*request.param) as lms:
        yield lms


@pytest.mark.parametrize("case", LAWFUL, ids=" ".join)
def test_laws_hold_and_it_is_stepped_as_the_whole_is(case: tuple[str, str]) -> None:
    with _dispatched(*case) as (whole, dispatched):
        assert dispatched.can_be_stepped == whole.can_be_stepped


def _agree(
    lms: tuple[LanguageModel, LanguageModel], numbers: Callable[[LanguageModel], dict[str, Any]]
) -> None:
    """Bit for bit on one device; across devices but for rounding."""
    expected, found = map(numbers, lms)
    exact = lms[0].device == lms[1].device
    for name, value in expected.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(found[name], value, check_exact=exact, rtol=1e-6)
        else:
            close = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-9, "atol": 1e-12}
            torch.testing.assert_close(found[name].cpu(), value.cpu(), **close, msg=name)


def test_what_islocated_is_the_same(both: tuple[LanguageModel, LanguageModel]) -> None:
    whole, dispatched = both
    assert is_dispatched(dispatched.model)
    assert dispatched.can_be_stepped == whole.can_be_stepped
    _agree(both, located)


def test_edits_and_rows_are_the_same(both: tuple[LanguageModel, LanguageModel]) -> None:
    if both[0].kind == "masked":
        pytest.skip("PyTorch's inference mode does not take the tensors that stand in here")
    _agree(both, edited)


def test_second_moments_are_the_same(
    both: tuple[LanguageModel, LanguageModel], source: TextSource
) -> None:
    _agree(both, lambda lm: {"moment": second_moments(lm, [1], source)[0].matrix})


def test_single_precision_stays_uncertified_where_weights_are_fetched(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = random_lm("gpt2")
    model = cpu_offload(copy.deepcopy(whole.model).float(), torch.device("cpu"))
    lm = LanguageModel(model, whole.tokenizer)
    exact = Quadrature(tol=1e-7)  # which float32 cannot reach
    (found,) = integrated_gradients(lm, [lm.encode(QUERY, "Paris")], exact)
    assert not found.certified.all()
    assert "stays uncertified: weights that are fetched" in caplog.text


def test_a_checkpoint_is_read_onto_a_map_and_says_which(tmp_path: Path) -> None:
    whole = random_lm("gpt2")
    whole.model.save_pretrained(tmp_path)
    whole.tokenizer.save_pretrained(tmp_path)
    place = {key: "disk" if key.endswith(".h.1") else "cpu" for key in _map(whole, "")}
    one = Pretrained(label="gpt2", name=str(tmp_path))
    lms = [
        replace(one, device_map=where).load(torch.device("cpu"), "float32")
        for where in (None, "auto", place)
    ]
    assert [mapped(lm.model) for lm in lms] == [None, None, place]
    assert is_fetched(lms[2].architecture.mlp_output(1))
    assert len({lm.revision for lm in lms}) == 1
    for lm in lms[1:]:
        _agree((lms[0], lm), lambda lm: {"values": lm.architecture.values(1), **edited(lm)})


def test_weights_that_are_fetched_are_looked_at_when_they_are_read(tmp_path: Path) -> None:
    whole = random_lm("gpt2")
    broken = copy.deepcopy(whole.model)
    with torch.no_grad():
        broken.transformer.h[1].mlp.c_proj.weight[0, 0] = torch.nan
    broken.save_pretrained(tmp_path)
    whole.tokenizer.save_pretrained(tmp_path)
    one = Pretrained(
        label="x", name=str(tmp_path), device_map={"transformer": "disk", "lm_head": "cpu"}
    )
    with pytest.raises(ValueError, match=r"NaN or infinite: transformer\.h\.1\.mlp\.c_proj"):
        one.load(torch.device("cpu"), "float32")


def test_layers_that_share_fetched_weights_are_refused() -> None:
    whole = random_lm("gpt2")
    model = copy.deepcopy(whole.model)
    model.transformer.h[1].mlp.c_proj.weight = model.transformer.h[0].mlp.c_proj.weight
    model = cpu_offload(model, torch.device("cpu"))
    with pytest.raises(ValueError, match="Layers share the weights of their MLP's output"):
        LanguageModel(model, whole.tokenizer)


@pytest.mark.gpu
def test_two_gpus_give_what_one_gives() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there are not two GPUs")
    for family in ("llama", "bert", "gemma3_text"):
        whole = random_lm(family)
        one, two = (
            dispatch_model(copy.deepcopy(whole.model), _map(whole, *where), force_hooks=True)
            for where in (("cuda:0",), ("cuda:0", "cuda:1"))
        )
        lms = LanguageModel(one, whole.tokenizer), LanguageModel(two, whole.tokenizer)
        _agree(lms, lambda lm: located(lm) | edited(lm))


def test_what_would_be_lost_is_refused(both: tuple[LanguageModel, LanguageModel]) -> None:
    with pytest.raises(ValueError, match=r"would be lost; load it with model\.device_map=null"):
        merge(both[1], NeuronScale(((0, 3),), 0.0))
