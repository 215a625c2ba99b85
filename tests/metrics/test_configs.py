"""Every metric has one YAML of its stem that builds it with every field spelled out."""

import dataclasses
import pkgutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import kn_sweeps.metrics
from kn_sweeps.config import build

CONF = Path(__file__).parents[2] / "conf" / "metric"
SHARED = {
    *("base", "answers", "significance", "bootstrap", "quantities", "catalogue"),
    *("comparing", "verdicts"),
}
FAMILIES = sorted({m.name for m in pkgutil.iter_modules(kn_sweeps.metrics.__path__)} - SHARED)


def test_there_is_one_config_for_each_family():
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == FAMILIES


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_builds_its_metric_with_the_defaults_of_the_code(name):
    path = CONF / f"{name}.yaml"
    config = OmegaConf.load(path)
    ours = OmegaConf.load(CONF.parent / "compat" / "ours.yaml")
    whole = OmegaConf.load(CONF.parent / "config.yaml")
    shared = {key: whole[key] for key in ("bootstrap", "scorer", "beside")}
    node = OmegaConf.merge({"compat": ours, **shared, "metric": config}).metric
    metric = build(OmegaConf.to_container(node, resolve=True))
    assert path.read_text().startswith(f"# @package metric.{name}\n")
    assert type(metric).__module__ == f"kn_sweeps.metrics.{name}"
    assert metric == type(metric)()
    assert set(config) - {"_target_"} == {field.name for field in dataclasses.fields(metric)}
