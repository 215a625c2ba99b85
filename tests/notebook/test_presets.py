"""Models by name, and methods with the values that a run has for a model."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path

import pytest
import torch

import kn_sweeps as kn
from kn_sweeps.cases import Case
from kn_sweeps.config import build
from kn_sweeps.methods.base import Method
from kn_sweeps.notebook.presets import default_metrics
from kn_sweeps.plans import Plan
from kn_sweeps.tiny import __file__ as tiny_room
from tests.test_config import composed

WEIGHTS = Path(tiny_room).parent / "weights"
METHODS = {
    "kn": kn.KnowledgeNeurons,
    "rome": kn.Rome,
    "memit": kn.Memit,
    "alphaedit": kn.AlphaEdit,
    "emmet": kn.Emmet,
    "ultraedit": kn.UltraEdit,
    "ft": kn.FineTuning,
    "lora": kn.Lora,
    "locft": kn.LocalisedFineTuning,
    "ike": kn.InContextEditing,
    "random": kn.RandomControl,
    "none": kn.NoEdit,
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", ["tiny_gpt2", "tiny_bert"])
def test_a_method_has_the_values_that_the_command_line_gives_it(
    name: str, model: str, request: pytest.FixtureRequest
) -> None:
    lm = request.getfixturevalue("tiny" if model == "tiny_gpt2" else "tiny_bert")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = METHODS[name].for_model(lm)
    assert found == build(composed(f"model={model}", f"method={name}")["method"])
    assert type(found) is METHODS[name]


def test_values_that_are_given_win_and_are_checked(tiny: kn.LanguageModel) -> None:
    assert kn.Rome.for_model(tiny, layer=3, steps=2).layer == 3
    control = kn.RandomControl.for_model(tiny, of=kn.Rome(layer=1))
    assert control.of == kn.Rome(layer=1)
    with pytest.raises(ValueError, match=r"unknown key method.layr \(did you mean layer\?\)"):
        kn.Rome.for_model(tiny, layr=3)
    with pytest.raises(ValueError, match="method.steps='many'"):
        kn.Rome.for_model(tiny, steps="many")


def test_a_model_that_nothing_is_tuned_for_gets_values_in_a_warning(
    causal_lm: kn.LanguageModel,
) -> None:
    lm = kn.LanguageModel(causal_lm.model, causal_lm.tokenizer, name="somebody's")
    with pytest.warns(UserWarning, match="rome is not tuned for somebody's: .*layer=1") as told:
        rome = kn.Rome.for_model(lm)
    assert Path(told[0].filename).name == Path(__file__).name  # it points at who asked
    assert rome.layer == 17 * 3 // 48
    with pytest.warns(UserWarning, match="bundled texts"):
        memit = kn.Memit.for_model(lm)
    assert memit.layers == (0, 1)
    assert memit.second_moment is not None
    assert memit.second_moment.name == "bundled"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kn.KnowledgeNeurons.for_model(lm)  # nothing of it depends on the model
        kn.FineTuning.for_model(lm, layer=0, learning_rate=0.1, norm_constraint=None)


def test_a_method_of_ones_own_says_what_is_missing(tiny: kn.LanguageModel) -> None:
    @dataclasses.dataclass(frozen=True)
    class Mine(Method):
        def plan(self, *_args: object, **_settings: object) -> Plan:
            return Plan({}, {})

    with pytest.raises(ValueError, match=r"conf/method has no test_presets.yaml.*: Mine\(...\)"):
        Mine.for_model(tiny)


def test_a_model_is_a_preset_or_a_folder(tiny: kn.LanguageModel) -> None:
    folder = kn.load(WEIGHTS / "tiny_gpt2")
    assert (folder.name, folder.revision) == ("tiny_gpt2", tiny.revision)
    assert kn.load(str(WEIGHTS / "tiny_gpt2"), dtype="bfloat16").model.dtype == torch.bfloat16
    assert kn.load("tiny_gpt2", start_token="<|endoftext|>").start_token == "<|endoftext|>"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("tiny-gpt2", {}, r"unknown model 'tiny-gpt2' \(did you mean tiny_gpt2\?\); choose from"),
        ("checkpoint", {}, "unknown model 'checkpoint'.*or name a folder with a checkpoint"),
        ("", {}, "expected a preset, a folder, or OWNER/NAME on the hub"),
        (None, {}, "model None: expected a preset"),
        ("tiny_gpt2", {"dtype": "float8"}, "dtype='float8'"),
        ("tiny_gpt2", {"device": "tpu"}, "device='tpu'"),
        ("tiny_gpt2", {"layer": 5}, r"unknown key model.layer \(did you mean layers\?\)"),
        (Path(__file__).parent, {}, "tried that folder: it has no config.json"),
        ("/nowhere/at/all", {}, "does not exist"),
    ],
)
def test_a_model_that_is_none_is_refused_as_on_the_command_line(
    name: str, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kn.load(name, **settings)  # type: ignore[arg-type]


def test_a_model_that_is_already_loaded_is_checked_and_named(tiny: kn.LanguageModel) -> None:
    model = copy.deepcopy(tiny.model)
    model.name_or_path = "somewhere/Tiny-GPT2"
    lm = kn.LanguageModel(model, tiny.tokenizer)
    assert lm.name == "Tiny-GPT2"
    assert lm.can_be_stepped
    assert not model.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kn.Rome.for_model(lm) == kn.Rome.for_model(tiny)  # a preset, as hubs spell it
    model.name_or_path = ""
    assert kn.LanguageModel(model, tiny.tokenizer).name == "gpt2"
    first, second = map(lm.architecture.mlp_output, (0, 1))
    second.weight = first.weight
    with pytest.raises(ValueError, match="Layers share the weights"):
        kn.LanguageModel(model, tiny.tokenizer)
    with pytest.raises(ValueError, match="expected a model of transformers, got str"):
        kn.LanguageModel("gpt2", tiny.tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a tokenizer of transformers, got NoneType"):
        kn.LanguageModel(model, None)  # type: ignore[arg-type]


def test_metrics_are_those_of_a_run() -> None:
    config = composed()
    assert default_metrics() == [build(node) for node in config["metric"].values()]


def test_a_plan_is_made_as_printed(tiny: kn.LanguageModel, capital: Case) -> None:
    edit = kn.Rome.for_model(tiny).plan(tiny, [capital])
    assert list(edit.edit_of) == [capital.id]
