"""What of a method depends on the model comes from conf/tuned, however the two are chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from hydra_plugins.kn_sweeps_launcher import composed
from kn_sweeps.commands.explaining import explain
from kn_sweeps.methods.tuned import tuned
from kn_sweeps.records.places import CONF

METHODS = ("rome", "memit", "alphaedit", "ft", "locft")
TABLE = """
model                 layer steps decay clamp layers weight texts clamp L2   null layer rate  norm
bert_base_cased       6     20    0.5   4.0   4-6    15000  wiki  0.75  10.0 0.02 6     5e-4  1e-3
bert_large_cased      12    20    0.5   4.0   10-12  15000  wiki  0.75  10.0 0.02 12    5e-4  1e-3
gemma3_270m           5     25    0.001 4.0   4-6    1000   own   4.0   10.0 0.02 5     1e-3  0.01
gemma_2_2b            5     25    0.001 4.0   4-6    15000  wiki  4.0   10.0 0.02 5     5e-4  1e-3
gpt2                  6     20    0.5   4.0   4-6    20000  wiki  0.75  10.0 0.02 6     5e-4  1e-3
gpt2_medium           8     20    0.5   3.0   6-8    20000  wiki  0.75  10.0 0.02 8     5e-4  1e-3
gpt2_xl               17    20    0.5   4.0   13-17  20000  wiki  0.75  10.0 0.02 0     5e-4  2e-4
gpt_j_6b              5     20    0.5   4.0   3-8    15000  wiki  0.75  10.0 0.02 0     5e-4  5e-5
llama_2_7b            5     25    0.001 4.0   4-8    15000  wiki  4.0   10.0 0.02 21    5e-4  5e-4
llama_3_1_8b_instruct 5     25    0.001 4.0   4-8    15000  wiki  0.75  10.0 0.02 21    5e-4  5e-4
llama_3_8b            5     25    0.001 4.0   4-8    15000  wiki  0.75  10.0 0.02 21    5e-4  5e-4
mistral_7b            5     25    0.001 4.0   4-8    15000  wiki  4.0   10.0 0.02 21    5e-4  5e-4
modernbert_base       11    20    0.5   4.0   9-11   15000  wiki  0.75  10.0 0.02 11    5e-4  1e-3
olmo2_7b              5     25    0.001 4.0   4-8    15000  wiki  4.0   10.0 0.02 21    5e-4  5e-4
phi_3_mini            5     25    0.001 4.0   4-8    15000  wiki  4.0   10.0 0.02 21    5e-4  5e-4
qwen2_5_7b_instruct   5     25    0.001 4.0   4-8    15000  wiki  4.0   1.0  0.02 21    5e-4  5e-4
qwen3_0_6b            5     25    0.001 4.0   4-6    15000  wiki  4.0   10.0 0.02 5     5e-4  1e-3
qwen3_8b              5     25    0.001 4.0   4-8    15000  wiki  4.0   1.0  0.02 21    5e-4  5e-4
roberta_base          6     20    0.5   4.0   4-6    15000  wiki  0.75  10.0 0.02 6     5e-4  1e-3
smollm2_135m          8     25    0.001 4.0   6-8    1000   own   4.0   10.0 0.02 8     1e-3  0.01
tiny_bert             2     40    0.001 10.0  1-2    1.0    own   4.0   0.1  0.02 2     0.005 0.01
tiny_gpt2             0     25    0.5   4.0   0-1    1.0    own   4.0   0.1  0.02 0     0.005 0.01
"""
"""By model the values of ROME, MEMIT, AlphaEdit (L2 and null) and fine-tuning, in this order."""
RATES = {"smollm2_135m": 1e-3}
"""Localised fine-tuning's learning rate, where it is not the published one."""
VALUES = {line.split()[0]: line.split()[1:] for line in TABLE.strip().splitlines()[1:]}
TEXTS = {"wiki": "wikimedia/wikipedia:20231101.en", "own": "bundled"}


def expected(method: str, model: str) -> dict[str, Any]:
    """MEMIT's steps and weight decay are ROME's; what AlphaEdit does not name is MEMIT's."""
    layer, steps, decay, clamp, layers, weight, texts, longest, l2, null, *ft = VALUES[model]
    first, last = map(int, layers.split("-"))
    if method == "locft":
        own = {"llama_3_8b": 22, "qwen2_5_7b_instruct": 6}
        return {"layer": own.get(model, int(ft[0])), "learning_rate": RATES.get(model, 5e-4)}
    if method == "ft":
        rate, norm = map(float, ft[1:])
        return {"layer": int(ft[0]), "learning_rate": rate, "norm_constraint": norm}
    common = {"steps": int(steps), "weight_decay": float(decay)}
    if method == "rome":
        return {**common, "layer": int(layer), "clamp_norm": float(clamp)}
    common |= {"layers": list(range(first, last + 1)), "covariance_weight": float(weight)}
    common |= {"second_moment.name": TEXTS[texts], "clamp_norm": float(longest)}
    of_alphaedit = {"covariance_weight": float(l2), "null_threshold": float(null)}
    return common | (of_alphaedit if method == "alphaedit" else {})


class Configs:
    """Composes what `launch.py -m` would launch, with a folder of one's own."""

    def __init__(self, own: Path) -> None:
        setup_globals()
        search = create_config_search_path(str(CONF))
        search.prepend("command-line", f"file://{own}")
        self._loader = ConfigLoaderImpl(search)
        self._master = self._loader.load_configuration(
            "config", ["hydra/launcher=processes"], RunMode.MULTIRUN
        )

    def launched(self, *sets: list[str]) -> Iterator[dict[str, Any]]:
        """The runs of a launch."""
        for _, config in composed(self._loader, self._master, sets):
            yield dict(config)

    def method(self, *overrides: str) -> dict[str, Any]:
        """The method of a run, as launched and as Hydra alone composes it."""
        (config,) = self.launched(list(overrides))
        alone = self._loader.load_configuration("config", list(overrides), RunMode.RUN)
        assert config["method"] == OmegaConf.to_container(alone.method, resolve=True)
        return dict(config["method"])


@pytest.fixture
def configs(tmp_path: Path) -> Configs:
    for name, text in {
        "model/mine.yaml": "defaults: [tiny_gpt2, _self_]\nlabel: mine",
        "model/other.yaml": "defaults: [tiny_gpt2, _self_]\nlabel: other",
        "tuned/rome/mine.yaml": "layer: 3\nsteps: 7\nweight_decay: 0.1\nclamp_norm: 2.0",
        "experiment/mine.yaml": "# @package _global_\ndefaults:\n"
        "  - override /model: mine\n  - override /method: rome\n",
        "experiment/control.yaml": "# @package _global_\ndefaults:\n  - override /model: mine\n"
        "  - override /method: random\n  - override /method@method.of: rome\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Configs(tmp_path)


def picked(node: dict[str, Any], names: Any) -> dict[str, Any]:
    return {name: OmegaConf.select(OmegaConf.create(node), name) for name in names}


def test_a_model_has_the_values_that_were_chosen_for_it(configs: Configs) -> None:
    # Composed for a model each; all files are read, without Hydra, below.
    pairs = list(zip(METHODS, VALUES))  # noqa: B905
    runs = configs.launched(*([f"method={method}", f"model={model}"] for method, model in pairs))
    for pair, run in zip(pairs, runs, strict=True):
        values = expected(*pair)
        assert picked(run["method"], values) == values, pair


def test_every_model_is_tuned_and_nothing_is_tuned_for_a_model_that_is_not_there() -> None:
    models = {path.stem for path in (CONF / "model").glob("*.yaml")}
    models.remove("checkpoint")  # any model that a user names
    assert models == set(VALUES)
    for method in METHODS:
        assert {path.stem for path in (CONF / "tuned" / method).glob("*.yaml")} == models


@pytest.mark.parametrize("method", METHODS)
def test_read_without_hydra_they_are_the_same(method: str) -> None:
    for model in VALUES:
        found, values = tuned(method, model, CONF), expected(method, model)
        assert found is not None
        assert picked(found, values) == values
        leaves = {key.removesuffix(".name") for key in values}
        assert set(found) == leaves  # and no others


def test_a_model_without_values_and_a_method_that_needs_none_are_told_apart() -> None:
    assert tuned("rome", "mine", CONF) is None
    assert tuned("kn", "mine", CONF) == {}
    with pytest.raises(ValueError, match=r"unknown method 'romme' \(did you mean rome\?\)"):
        tuned("romme", "gpt2", CONF)


MINE = {"layer": 3, "steps": 7, "weight_decay": 0.1, "clamp_norm": 2.0}


@pytest.mark.parametrize(
    ("at", "overrides"),
    [
        ("", ["model=mine", "method=rome"]),
        ("", ["method=rome", "model=mine"]),
        ("", ["experiment=mine"]),
        ("", ["experiment=mine", "seed=1"]),
        ("", ["experiment=layer_sweep", "method.layer=3", "model=mine"]),
        ("of", ["method=random_rome", "model=mine"]),
        ("of", ["method@method.of=rome", "model=mine", "method=random"]),
        ("of", ["experiment=control"]),
        ("", ["model=other", "method=rome", "tuned/rome@method=mine"]),
        ("of", ["model=other", "method=random_rome", "tuned/rome@method.of=mine"]),
        ("", ["model=other", "method=rome", *(f"method.{key}={MINE[key]}" for key in MINE)]),
    ],
)
def test_however_model_and_method_are_chosen_the_values_are_the_models(
    configs: Configs, at: str, overrides: list[str]
) -> None:
    method = configs.method(*overrides)
    assert picked(method[at] if at else method, MINE) == MINE


def test_a_chosen_experiment_gives_way_to_the_command_line(configs: Configs) -> None:
    assert configs.method("experiment=mine", "model=gpt2_xl")["layer"] == 17
    assert configs.method("method=ft", "experiment=mine", "model=gpt2")["norm_constraint"] == 0.001


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["model=other", "method=rome"],
            "rome is not tuned for model other: say all of method.clamp_norm, method.layer, "
            "method.steps, method.weight_decay; or write tuned/rome/MODEL.yaml, .*"
            "tuned/rome@method=NAME, of which there are bert_base_cased, ",
        ),
        (
            ["model=mine", "method=random", "method@method.of=alphaedit", "method.of.layers=[1]"],
            "alphaedit is not tuned for model mine: say all of method.of.clamp_norm, method.of."
            "covariance_weight, method.of.null_threshold, method.of.second_moment.name, .*write "
            "tuned/memit/MODEL.yaml and tuned/alphaedit/MODEL.yaml, .*"
            "tuned/memit@method.of=NAME tuned/alphaedit@method.of=NAME",
        ),
        (["results_dir=???"], r"results_dir has no value yet \(it is \?\?\?\)"),
    ],
)
def test_a_model_without_values_is_refused_with_all_that_can_be_done(
    configs: Configs, overrides: list[str], said: str
) -> None:
    with pytest.raises(MissingMandatoryValue) as error:
        configs.method(*overrides)
    with pytest.raises(ValueError, match=said):
        raise ValueError(explain(error.value))


def test_what_needs_no_values_runs_on_any_model(configs: Configs) -> None:
    assert configs.method("model=other", "method=kn")["operation"] == "suppress"
