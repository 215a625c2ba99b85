"""Every config composes and fits its dataclass; a wrong key or value is refused by name."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf

from hydra_plugins.kn_sweeps_launcher import Composer
from kn_sweeps.commands.launch import split
from kn_sweeps.config import RunConfig, build, run_id
from kn_sweeps.records.places import CONF
from kn_sweeps.sweeps.launch import LAUNCHERS

TUNED = CONF / "tuned"
GROUPS = {
    group: sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    for group in ("model", "dataset", "method", "metric", "measurement", "tracker")
}
_FILE = ["dataset.path=facts.csv"]
ASKED = {"checkpoint": ["model.name=somebody/model"], "facts": _FILE, "pairs": _FILE}
"""What a choice cannot do without."""
OTHERS = {
    **{name: [f"tuned/{name}@method=gpt2"] for name in ("rome", "memit", "ft", "locft")},
    "alphaedit": ["tuned/memit@method=gpt2", "tuned/alphaedit@method=gpt2"],
    "emmet": ["tuned/memit@method=gpt2"],
    "random_rome": ["tuned/rome@method.of=gpt2"],
}
"""How a method takes what is tuned for another model."""
CHOICES = [(group, name) for group, names in GROUPS.items() for name in names]


def composed(*overrides: str, conf: Path | None = None) -> dict[str, Any]:
    """A run's config; `conf` is a folder of one's own configs besides the project's."""
    return split(_composer(conf).config(overrides))[1]


@cache
def _composer(conf: Path | None) -> Composer:
    setup_globals()
    places = create_config_search_path(str(CONF))
    if conf is not None:
        places.append("own", f"file://{conf}", anchor="main")
    loader = ConfigLoaderImpl(places)
    return Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_yaml_composes_instantiates_and_spells_out_its_fields(group: str, name: str) -> None:
    several = group in ("metric", "measurement")
    config = composed(f"{group}=[{name}]" if several else f"{group}={name}", *ASKED.get(name, []))
    made = getattr(build(config, RunConfig), group)
    node = config[group]
    if several:
        made, node = made[name], node[name]
    fields = {field.name for field in dataclasses.fields(made) if field.init}
    assert set(node) - {"_target_"} == fields


@pytest.mark.parametrize("name", GROUPS["method"])
def test_a_methods_module_and_yaml_share_a_name(name: str) -> None:
    # A control of a method other than the usual one is named after it: random_rome.
    module = composed(f"method={name}")["method"]["_target_"].split(".")[-2]
    assert name == module or name.startswith(f"{module}_")


def test_the_root_config_spells_out_the_schema() -> None:
    assert set(composed()) == {field.name for field in dataclasses.fields(RunConfig)}


def test_every_launcher_spells_out_its_settings() -> None:
    for name, settings in LAUNCHERS.items():
        node = OmegaConf.to_container(OmegaConf.load(CONF / "hydra" / "launcher" / f"{name}.yaml"))
        assert isinstance(node, dict)
        assert node.pop("_target_").endswith(f".{name.capitalize()}Launcher")
        made = build(node, settings)
        assert set(node) == {field.name for field in dataclasses.fields(made)}


def _combinations() -> Iterator[tuple[str, str, str]]:
    """Models with data sets and methods: what refers to what is there, everything at least once.

    Methods refer to the model, by what is tuned for it, and never to a data set. Composing all of
    them takes minutes.
    """
    datasets = itertools.cycle(GROUPS["dataset"])
    untuned = itertools.cycle(GROUPS["method"])
    for model in GROUPS["model"]:
        tuned = [name for name in GROUPS["method"] if (TUNED / name / f"{model}.yaml").is_file()]
        for method in dict.fromkeys([*tuned, next(untuned)]):
            yield model, next(datasets), method


def test_every_group_combines_with_every_other() -> None:
    combinations = list(_combinations())
    for number, group in enumerate(("model", "dataset", "method")):
        assert {one[number] for one in combinations} == set(GROUPS[group])
    for model, dataset, method in combinations:
        # Of a model that nothing is tuned for, as of a checkpoint, another one's values are taken.
        more = [*ASKED[model], *OTHERS.get(method, [])] if model in ASKED else []
        more += ASKED.get(dataset, [])
        build(
            composed(f"model={model}", f"dataset={dataset}", f"method={method}", *more), RunConfig
        )


@pytest.mark.parametrize("name", [n for n in GROUPS["method"] if not n.startswith("random")])
def test_a_control_can_be_of_any_method(name: str) -> None:
    config = composed("method=random", f"method@method.of={name}")
    assert type(build(config, RunConfig).method.of).__module__ == f"kn_sweeps.methods.{name}"


def test_a_controlled_method_takes_settings() -> None:
    config = composed("method=random", "method@method.of=rome", "method.of.steps=7")
    assert build(config, RunConfig).method.of.steps == 7


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset=pararel", "dataset.relations=P36"], r"write dataset.relations=\[P36\]"),
        (["seed=abc"], "seed='abc': Input should be a valid integer"),
        (["device=gpu"], "device='gpu': Input should be 'auto', 'cpu' or 'cuda'"),
        (["dtype=float8"], "Input should be 'float32', 'bfloat16' or 'float16'"),
        (["limit=true"], "limit=True: expected another type"),
        (["dataset.neighbours=-1"], "dataset: neighbours must be 0 or more, got -1"),
        (["dataset.seen_share=50"], "seen_share must lie between 0 and 1"),
        (["method=rome", "method.clamp_norm=-1"], "clamp_norm must be above 0"),
        (["limit=0"], "limit must be at least 1, or null"),
        (["batch_size=0"], "batch_size must be at least 1"),
        (["regime=sequential", "evaluate_every=0"], "evaluate_every must be a number of edits"),
        (["regime=sequential", "evaluate_every=[]"], "evaluate_every must be a number of edits"),
        (["shard=2/2"], r"shard must be I/N with 0 <= I < N, e.g. 0/4; got '2/2'"),
        (["shard=one"], "shard must be I/N"),
        (["shard=0/2", "regime=sequential"], "with regime=sequential they do: leave it out"),
        (["method.threshold=high"], "method.threshold='high': Input should be a valid number"),
        (
            ["method.operation=delete"],
            "method.operation='delete': Input should be 'suppress', 'enhance' or",
        ),
        (["method.threshold=2"], r"method: threshold must be in \[0, 1\)"),
        (["method=rome", "method.key_mode=bare"], "Input should be 'mean' or 'original'"),
        (["metric=[]"], "missing metric"),
        (["tracker.mode=on"], "tracker.mode"),
        (
            ["+method.tresh=1"],
            r"unknown key method.tresh \(did you mean threshold\?\); choose from",
        ),
        (["+sed=1"], r"unknown key sed \(did you mean seed\?\)"),
        (["~model.label"], "missing model.label"),
        (["method._target_=kn_sweeps.methods.kn.Nothing"], "cannot be imported"),
        (["method._target_=kn_sweeps.run.run"], "is not a dataclass"),
        (["dataset.relations=[P36]", "dataset=pararel", "dataset.neighbours=[]"], "neighbours"),
    ],
)
def test_a_wrong_value_is_refused_with_the_choices(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(composed(*overrides), RunConfig)


def test_the_run_id_is_what_can_change_rows() -> None:
    base = run_id(composed(), "model", "data")
    for override in (
        *("device=cpu", "batch_size=7", "results_dir=elsewhere", "sweep=other", "rerun=true"),
        *("tracker=none", "metric=[reliability]", "dataset.root=/somewhere", "tracker.mode=online"),
    ):
        assert run_id(composed(override), "model", "data") == base, override
    for override in (
        *("seed=1", "dtype=bfloat16", "limit=3", "method.steps=9", "shard=0/2"),
        "measurement=[tracing]",
    ):
        assert run_id(composed(override), "model", "data") != base, override
    assert run_id(composed(), "model", "other data") != base
    assert run_id(composed(), "other model", "data") != base


def test_the_configs_of_the_hub_have_romes_published_layers() -> None:
    layers = {"gpt2_medium": 8, "gpt2_xl": 17, "gpt_j_6b": 5, "llama_2_7b": 5}
    for name, layer in layers.items():
        assert composed(f"model={name}", "method=rome")["method"]["layer"] == layer


def test_conf_lies_where_the_command_line_looks() -> None:
    assert (CONF / "config.yaml").is_file()
    assert isinstance(CONF, Path)


PUBLISHED_KN = {
    "quadrature": "linspace",
    "steps": 20,
    "refine": "published",
    "site": "pre_activation",
    "where": "read",
}
PUBLISHED_ROME = {
    "key_mode": "original",
    "kl_position": "subject",
    "context_openings": ("The", "Therefore", "Because", "I", "You"),
    "context_lengths": (4, 9),
}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [(["method=kn"], PUBLISHED_KN), (["method=rome"], PUBLISHED_ROME)],
)
def test_compat_sets_what_the_published_code_does_of_a_method_and_of_its_control(
    overrides: list[str], expected: dict[str, Any]
) -> None:
    (method,) = overrides
    control = ["method=random", method.replace("method", "method@method.of")]
    made = build(composed("compat=kn_thesis", method), RunConfig).method
    controlled = build(composed("compat=kn_thesis", *control), RunConfig).method.of
    assert made == controlled
    assert {name: getattr(made, name) for name in expected} == expected
    ours = build(composed(method), RunConfig).method
    assert all(getattr(ours, name) != one for name, one in expected.items() if name != "steps")


def test_compat_sets_the_metrics_that_are_asked_for() -> None:
    metric = build(composed("compat=kn_thesis"), RunConfig).metric
    assert metric["localisation"].pooled_by == "target_type"
    assert metric["probability"].relative_to == "smaller"
    assert set(composed("compat=kn_thesis", "metric=[reliability]")["metric"]) == {"reliability"}


def test_compat_counts_where_it_is_taken_only() -> None:
    """It is in a run's id as what it makes of the method, and nothing else."""

    def identity(*overrides: str) -> str:
        return run_id(composed(*overrides), "model", "data")

    assert "compat" not in composed("compat=kn_thesis")
    assert identity("compat=kn_thesis") != identity()
    assert identity("compat=ours") == identity()
    assert identity("compat=kn_thesis", "method=ft") == identity("method=ft")
    for override in ("method.where=everywhere", "method.refine=nearest"):
        assert identity("compat=kn_thesis", override) != identity("compat=kn_thesis")
    own = [f"method.{name}={value}" for name, value in PUBLISHED_KN.items()]
    assert identity(*own) == identity("compat=kn_thesis")
