"""A model whose weights are quantised is the model that their numbers make, and no other."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pandas as pd
import pytest
import torch
from hydra import initialize_config_dir

import kn_sweeps as kn
from kn_sweeps.attribution.integrated_gradients import integrated_gradients
from kn_sweeps.attribution.quadrature import Quadrature
from kn_sweeps.commands.memory import rows_of
from kn_sweeps.edits import NeuronScale
from kn_sweeps.interventions import applied, merge
from kn_sweeps.models.kept_weights import LEVELS, keep
from kn_sweeps.models.language_model import LanguageModel
from kn_sweeps.models.pretrained import Pretrained
from kn_sweeps.models.quantized import Quantization, dequantize, quantization_of
from kn_sweeps.records.places import CONF
from tests.conftest import random_lm
from tests.models.alike import QUERY, edited, located
from tests.reference import quantization as reference

CPU = torch.device("cpu")
CASES = [("8bit", "llama"), ("4bit", "llama"), ("8bit", "bert"), ("4bit", "gemma3_text")]


def _saved(at: Path, family: str) -> Pretrained:
    whole = random_lm(family)
    whole.model.save_pretrained(at)
    whole.tokenizer.save_pretrained(at)
    return Pretrained(label=family, name=str(at))


@pytest.fixture(params=CASES, ids=" ".join)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[LanguageModel, LanguageModel]:
    kind, family = request.param
    """The model of plain numbers that a quantised one is stands beside it."""
    one = replace(_saved(tmp_path, family), quantization=kind)
    lm, other = (one.load(CPU, "float32") for _ in range(2))
    dequantize(other.model)
    return lm, LanguageModel(other.model, other.tokenizer, name=other.name)


def test_everything_is_as_with_its_numbers(both: tuple[LanguageModel, LanguageModel]) -> None:
    lm, other = both
    assert quantization_of(lm.model) is not None
    assert quantization_of(other.model) is None
    assert lm.can_be_stepped == other.can_be_stepped
    for find in (located, edited):
        for (name, found), expected in zip(find(lm).items(), find(other).values(), strict=True):
            if isinstance(expected, pd.DataFrame):
                pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)
            else:
                torch.testing.assert_close(found, expected, rtol=5e-3, atol=1e-5, msg=name)


def test_what_is_merged_for_an_export_answers_as_the_edited_model_did(
    both: tuple[LanguageModel, LanguageModel], tmp_path: Path
) -> None:
    lm, _ = both
    edit = NeuronScale(((0, 3), (1, 7)), 0.0)
    batch = lm.batch([lm.encode(QUERY, "Paris").ids])
    with torch.no_grad(), applied(lm, edit):
        expected = lm.hidden(batch)
    merge(lm, edit)
    torch.testing.assert_close(lm.hidden(batch), expected, rtol=1e-4, atol=1e-5)
    lm.model.save_pretrained(tmp_path / "out")
    lm.tokenizer.save_pretrained(tmp_path / "out")
    again = Pretrained(label="x", name=str(tmp_path / "out")).load(CPU, "float32")
    torch.testing.assert_close(again.hidden(batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (3, 5)], ids=str)
def test_numbers_are_the_nearest_of_those_that_can_be_kept(shape: tuple[int, int]) -> None:
    assert list(LEVELS) == pytest.approx(reference.nf4_levels(), abs=1e-6)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight[0] = 0
    ways: tuple[tuple[Quantization, list[float]], ...] = (
        ("8bit", reference.eight_bits(weight)),
        ("4bit", reference.four_bits(weight)),
    )
    for kind, expected in ways:
        module = torch.nn.Linear(shape[1], shape[0])
        module.weight.data = weight.clone()
        keep(module, kind)
        assert module.weight.flatten().tolist() == pytest.approx(expected, abs=1e-6)
        x = torch.randn(2, 3, shape[1], requires_grad=True)
        plain = x.detach().clone().requires_grad_()
        (module(x) ** 2).sum().backward()
        (torch.nn.functional.linear(plain, module.weight, module.bias) ** 2).sum().backward()
        assert torch.equal(x.grad, plain.grad)  # type: ignore[arg-type]


def test_four_bits_are_coarser_than_eight_and_neither_is_the_model_itself(tmp_path: Path) -> None:
    model = _saved(tmp_path, "llama")
    kinds: tuple[Quantization | None, ...] = (None, "8bit", "4bit")
    lms = [replace(model, quantization=kind).load(CPU, "float32") for kind in kinds]
    values = [lm.architecture.values(1) for lm in lms]
    eight, four = (float((one - values[0]).norm() / values[0].norm()) for one in values[1:])
    assert 0 < eight < 0.02 < four < 0.2
    # It is another run with other caches.
    assert [lm.revision.removeprefix(lms[0].revision) for lm in lms] == ["", "-8bit", "-4bit"]
    assert lms[0].shape.weights > lms[1].shape.weights > lms[2].shape.weights


def test_what_single_precision_cannot_certify_says_so(
    both: tuple[LanguageModel, LanguageModel], caplog: pytest.LogCaptureFixture
) -> None:
    exact = Quadrature(tol=1e-7)  # which float32 cannot reach
    (found,) = integrated_gradients(both[0], [both[0].encode(QUERY, "Paris")], exact)
    assert not found.certified.all()
    assert "dequantised for each use are not computed with in double" in caplog.text


def test_weights_are_looked_at_when_they_are_read(tmp_path: Path) -> None:
    model = _saved(tmp_path, "llama")
    broken = copy.deepcopy(random_lm("llama").model).float()
    with torch.no_grad():
        broken.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    broken.save_pretrained(tmp_path)
    for kind in get_args(Quantization):
        with pytest.raises(ValueError, match=r"NaN or infinite: .*layers\.1\.mlp\.down_proj"):
            replace(model, quantization=kind).load(CPU, "float32")


def test_where_it_has_nothing_to_do_it_is_refused(tmp_path: Path) -> None:
    random_lm("gpt2").model.save_pretrained(tmp_path)
    random_lm("gpt2").tokenizer.save_pretrained(tmp_path)
    model = Pretrained(label="x", name=str(tmp_path), quantization="8bit")
    with pytest.raises(ValueError, match=r"no weights that model\.quantization=8bit is for"):
        model.load(CPU, "float32")


def test_what_others_quantised_is_refused_with_what_to_do() -> None:
    model = copy.deepcopy(random_lm("llama").model)
    model.hf_quantizer = SimpleNamespace(
        quantization_config=SimpleNamespace(quant_method="bitsandbytes")
    )
    with pytest.raises(ValueError, match=r"by bitsandbytes, .*model\.quantization"):
        kn.LanguageModel(model, random_lm("llama").tokenizer)


def test_what_is_not_meant_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="quantization '2bit'; choose from 8bit, 4bit"):
        Pretrained(label="x", name="x", quantization="2bit")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"on one device; use model\.device_map=null"):
        Pretrained(label="x", name="x", quantization="8bit", device_map="auto")


def test_it_takes_less_memory() -> None:
    more = ("method=rome", "model=llama_2_7b", "dtype=bfloat16")
    sizes = []
    for kind in ("null", "8bit", "4bit"):
        overrides = [*more, f"model.quantization={kind}"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            ((_, _, _, needs),) = rows_of(overrides, 32)
        sizes.append(needs["weights"] / 2**30)
    assert sizes == pytest.approx([12.6, 6.6, 3.9], abs=0.1)
