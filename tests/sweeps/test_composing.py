"""Composing many configs quickly gives what Hydra gives for each of them."""

from __future__ import annotations

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from hydra_plugins.kn_sweeps_launcher import composed
from kn_sweeps.records.places import CONF

SETS = [
    ["method=rome", "seed=3"],
    ["seed=4", "method=rome", "method.steps=7"],
    ["method=random", "method@method.of=kn", "method.of.threshold=0.3"],
    ["metric=[reliability,locality]", "limit=null", "metric.reliability.scorer=argmax"],
    ["experiment=layer_sweep", "method.layer=2"],
    ["model=smollm2_135m", "method=memit", "dataset=pararel", "dataset.relations=[P36]"],
    ["+method.extra=1", "~metric.locality", "tracker=none"],
    ["method=rome", "seed=5", "model=tiny_bert", "method.weight_decay=0.2"],
]


@pytest.fixture
def loader() -> ConfigLoaderImpl:
    setup_globals()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


def test_it_equals_hydras_own_composition(loader: ConfigLoaderImpl) -> None:
    master = loader.load_configuration("config", ["limit=3"], RunMode.MULTIRUN)
    found = list(composed(loader, master, SETS))
    for overrides, (_, config) in zip(SETS, found, strict=True):
        expected = loader.load_sweep_config(master, overrides)
        with open_dict(expected):
            del expected["hydra"]
        assert config == OmegaConf.to_container(expected, resolve=True), overrides
        assert list(config["method"]) == list(expected["method"])


def test_a_run_is_named_by_what_can_change_its_rows(loader: ConfigLoaderImpl) -> None:
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    sets = [["method=rome", "tracker=none", "sweep=x", "wait=true", "batch_size=3", "seed=1"]]
    ((name, _),) = composed(loader, master, sets)
    assert name == "method=rome seed=1"


def test_a_wrong_key_is_refused(loader: ConfigLoaderImpl) -> None:
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    with pytest.raises(ConfigCompositionException):
        list(composed(loader, master, [["method.tresh=1"]]))
