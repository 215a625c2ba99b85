"""Every preset runs on a tiny model and yields its study's figure; the numbers are the rows'."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from analysis.figures import STYLE, BrokenStudyError, draw, write
from analysis.runs import read_runs
from analysis.studies import STUDIES
from analysis.studies.drawing import METHODS, Drawing, method_style
from kn_sweeps.metrics.significance import paired_test
from kn_sweeps.models.last_loaded import LastLoaded
from kn_sweeps.records.places import CONF
from kn_sweeps.run import run
from tests.analysis.overlaps import Unreadable, unreadable
from tests.test_config import composed

# What a preset's own settings would take too long for here.
QUICK = ("tracker=none", "limit=4")
FEW_STEPS = {
    "method=random_rome": ["method.of.steps=3"],
    **{
        f"method={name}": ["method.steps=3", "method.contexts=0"]
        for name in ("rome", "memit", "alphaedit", "emmet")
    },
    "method=ft": ["method.steps=3"],
    **{f"method={name}": ["method.epochs=3"] for name in ("locft", "lora")},
}
OWN: dict[str, tuple[str, ...]] = {
    "determiner_neurons": (),
    "suppress_number_neuron": (),
    "cooccurrence": ("limit=12",),
    "localisation": ("limit=2",),
    "categorical": ("limit=1",),
    "causal_tracing": ("limit=2", "measurement.tracing.samples=2", "measurement.tracing.window=2"),
    "locating": ("limit=1",),
    "paths": ("limit=1",),
    "rome_syntax": ("limit=2",),
    "symmetry": ("limit=2",),
    "synonymy": ("limit=2",),
    "generalisation": ("limit=1", "dataset=agreement", "dataset.elsewhere=2"),
    "lifelong": (
        *("dataset.relations=[P36]", "limit=2", "edits_per_batch=1", "evaluate_every=[1,2]"),
    ),
}


def launched(preset: str, *overrides: str) -> Iterator[dict[str, Any]]:
    """The configs that `launch.py experiment=PRESET` launches."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"experiment={preset}", *overrides], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    assert config.hydra.callbacks.figures._target_ == "kn_sweeps.commands.figures.Draw"
    assert config.sweep == preset
    params = OmegaConf.to_container(config.hydra.sweeper.params or OmegaConf.create())
    assert isinstance(params, dict)
    given = {override.split("=")[0] for override in overrides}
    choices = [
        [f"{key}={value}" for value in str(values).split(",")]
        for key, values in params.items()
        if key not in given
    ]
    for chosen in itertools.product(*choices):
        few = [more for one in chosen for more in FEW_STEPS.get(one, ())]
        yield composed(f"experiment={preset}", *overrides, *chosen, *few)


@dataclass(frozen=True)
class Made:
    """A preset's sweep and what is drawn of it, whose files lie in its figures/."""

    sweep: Path
    drawings: list[Drawing]
    files: list[Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    results = tmp_path_factory.mktemp("studies")

    @cache
    def of(preset: str) -> Made:
        sweep, load = results / preset, LastLoaded()
        for config in launched(preset, *QUICK, *OWN[preset], f"results_dir={results}"):
            run(config, load=load)
        runs = read_runs(sweep)
        with matplotlib.style.context(STYLE):
            drawings = [one for study in STUDIES for one in study(runs)]
            files = [write(one, sweep / "figures", latex=True) for one in drawings]
        return Made(sweep, drawings, files)

    return of


def test_every_study_has_a_preset_and_its_page() -> None:
    presets = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    assert presets >= {*OWN, "layer_sweep"}
    page = (CONF.parent / "docs" / "studies.md").read_text(encoding="utf-8")
    for name in OWN:
        assert f"experiment={name}" in page


@pytest.mark.parametrize("preset", OWN)
def test_a_preset_runs_on_a_tiny_model_and_yields_its_figure(
    made: Callable[[str], Made], preset: str
) -> None:
    drawn = [path for path in made(preset).files if path.name.startswith(preset)]
    assert drawn
    for path in drawn:
        for ending in (".png", ".pdf", ".svg", ".csv", ".tex"):
            assert path.with_suffix(ending).stat().st_size > 0
        assert not pd.read_csv(path.with_suffix(".csv")).empty


@pytest.mark.parametrize("preset", OWN)
def test_every_text_of_a_presets_figures_can_be_read(
    made: Callable[[str], Made], preset: str
) -> None:
    with matplotlib.style.context(STYLE):
        for drawing in made(preset).drawings:
            assert unreadable(drawing.figure) == Unreadable([], []), drawing.name


def test_what_is_suppressed_is_measured_on_every_modifier(made: Callable[[str], Made]) -> None:
    sweep = made("suppress_number_neuron").sweep
    (file,) = sweep.glob("figures/suppress_number_neuron_tiny_gpt2.csv")
    numbers = pd.read_csv(file)
    for one in read_runs(sweep):
        rows = one.results.rows
        some = rows[(rows["group"] == "plural/these") & (rows["source"] == "plural")]
        pre, post = some["pre_log_prob_old"], some["post_log_prob_old"]
        mask = (numbers["method"] == one.method) & (numbers["suppressed"] == "plural")
        (found,) = numbers[mask & (numbers["modifier"] == "these")].to_dict("records")
        assert found["value"] == pytest.approx(((np.exp(post) - np.exp(pre)) / np.exp(pre)).mean())
        assert found["p"] == pytest.approx(paired_test(pre, post))
        assert found["p_holm"] >= found["p"]
        assert np.isnan(found["p_vs_random"]) == one.method.startswith("random")
        assert found["n"] == 4


def test_located_neurons_add_up_over_layers(made: Callable[[str], Made]) -> None:
    sweep = made("localisation").sweep
    layers = pd.read_csv(sweep / "figures" / "localisation_tiny_gpt2_by_layer.csv")
    for one in read_runs(sweep):
        own = layers[layers["dataset"] == one.dataset].sort_values("layer")
        assert own["neurons"].tolist() == one.summary["neurons_by_layer"]
        assert own["share"].sum() == pytest.approx(1)
        assert ((own["low"] <= own["share"]) & (own["share"] <= own["high"])).all()


def test_a_matrix_of_effects_has_every_pair(made: Callable[[str], Made]) -> None:
    sweep = made("generalisation").sweep
    numbers = pd.read_csv(sweep / "figures" / "generalisation_blimp_tiny_gpt2.csv")
    sources = set(numbers["edited"])
    assert set(numbers["measured"]) == sources
    assert set(numbers["method"]) == {"kn", "random(kn)", "rome", "random(rome)"}
    assert len(numbers) == 4 * len(sources) ** 2


def test_every_method_has_its_numbers_at_every_checkpoint(made: Callable[[str], Made]) -> None:
    sweep = made("lifelong").sweep
    numbers = pd.read_csv(sweep / "figures" / "lifelong_pararel_tiny_gpt2.csv")
    runs = read_runs(sweep)
    assert len(numbers) == len(runs) * 5 * 2 == 7 * 5 * 2
    for one in runs:
        own = numbers[numbers["method"] == one.method].set_index(["metric", "edits"])
        for metric, edits in itertools.product(
            ("reliability", "held", "generality", "locality", "loss_change"), (1, 2)
        ):
            estimate = one.summary["metrics"][f"{metric}_after_{edits}"]
            wanted = np.nan if estimate["value"] is None else estimate["value"]
            assert own.loc[(metric, edits), "value"] == pytest.approx(wanted, nan_ok=True)


def test_examples_show_what_the_model_said(made: Callable[[str], Made]) -> None:
    sweep = made("symmetry").sweep
    examples = pd.read_csv(sweep / "figures" / "symmetry_tiny_gpt2_examples.csv")
    assert set(examples["probe"]) == {"edit", "reversed", "residue"}
    assert examples[["p_old_before", "p_new_after"]].stack().between(0, 1).all()


def test_two_sets_of_shards_are_two_runs_each_with_its_own_rows(tmp_path: Path) -> None:
    overrides = ("method=kn", "dataset=pararel", "dataset.relations=[P36]", "limit=4")
    config = composed(*overrides, "tracker=none", f"results_dir={tmp_path}")
    for shard in ("0/2", "1/2", "0/4", "1/4", "2/4", "3/4"):
        run({**config, "shard": shard})
    runs = read_runs(tmp_path / "default")
    assert sorted(len(one.directories) for one in runs) == [2, 4]
    first, second = (one.results.of("edit") for one in runs)
    assert first["case"].tolist() == second["case"].tolist()
    assert first["case"].is_unique


def test_a_broken_study_costs_no_other_and_is_said(
    made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(runs: object) -> Iterator[Drawing]:
        raise KeyError("gone")
        yield

    sweep = made("localisation").sweep
    monkeypatch.setattr("analysis.figures.STUDIES", (broken, *STUDIES))
    with pytest.raises(BrokenStudyError, match="KeyError: 'gone'") as caught:
        draw(sweep)
    assert [path.stem for path in caught.value.drawn] == ["localisation_tiny_gpt2"]


def test_two_seeds_are_drawn_apart(tmp_path: Path) -> None:
    for seed in (0, 1):
        quick = (*QUICK[:1], "dataset=pararel", "limit=1", f"seed={seed}", "model=tiny_gpt2")
        for config in launched("categorical", *quick, f"results_dir={tmp_path}"):
            run(config)
    names = {path.stem for path in draw(tmp_path / "categorical")}
    assert names >= {"categorical_tiny_gpt2", "localisation_tiny_gpt2_kn_seed_0"}
    numbers = pd.read_csv(tmp_path / "categorical" / "figures" / "categorical_tiny_gpt2.csv")
    assert {"kn, seed 0", "kn, seed 1", "random(kn), seed 0"} <= set(numbers["method"])
    assert not numbers.duplicated(["dataset", "method", "source", "prompts", "measure"]).any()


def test_shards_of_a_study_are_drawn_as_one_run(tmp_path: Path) -> None:
    for config in launched("cooccurrence", *QUICK, "method=kn", f"results_dir={tmp_path}"):
        for shard in ("0/2", "1/2"):
            run({**config, "shard": shard})
        run({**config, "results_dir": str(tmp_path / "whole")})
    tables = []
    for folder in (tmp_path, tmp_path / "whole"):
        draw(folder / "cooccurrence")
        file = folder / "cooccurrence" / "figures" / "cooccurrence_tiny_gpt2.csv"
        tables.append(pd.read_csv(file))
    pd.testing.assert_frame_equal(*tables)


def test_no_two_methods_share_a_mark() -> None:
    there = {path.stem for path in (CONF / "method").glob("*.yaml")}
    assert {name for name in there if not name.startswith("random")} <= set(METHODS)
    styles = [tuple(method_style(method).values()) for method in (*METHODS, "mine")]
    assert len(set(styles)) == len(styles)
    assert len({marker for _, marker, _ in styles}) == len(styles)
