"""Sweepers that decide by results: what they get, and what they are refused in one sentence."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from kn_sweeps.commands import launch as cli
from kn_sweeps.commands.console import ToldError
from kn_sweeps.commands.launch import launch_composed
from kn_sweeps.records.summary import objective
from kn_sweeps.sweeps import launch as launching
from kn_sweeps.sweeps.launch import Ended
from kn_sweeps.sweeps.plan import LaunchConfig
from tests.commands.test_launch import launch
from tests.test_config import composed

QUICK = (
    *("tracker=none", "attribution_cache_gib=0", "metric=[reliability,locality]", "method=rome"),
    *("dataset=pararel", "dataset.relations=[P36]", "limit=2", "method.steps=3"),
)
OPTUNA = (
    *("-m", "hydra/sweeper=optuna", "hydra.sweeper.direction=maximize"),
    *("hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1", *QUICK),
    *("method.layer=range(0,3)", "method.learning_rate=interval(0.1,0.9)"),
)


def optuna(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launch(tmp_path, *OPTUNA, *arguments)


def test_optuna_gets_the_objective_of_every_trial_and_finds_the_best(tmp_path: Path) -> None:
    done = optuna(tmp_path, "hydra.sweeper.n_trials=3", "objective=-locality_kl")
    assert done.returncode == 0, done.stderr
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert len(summaries) == 3
    best = OmegaConf.load(tmp_path / "results/default/optimization_results.yaml")
    values = [-one["metrics"]["locality_kl"]["value"] for one in summaries]
    assert math.isclose(best["best_value"], max(values))
    assert len(set(values)) > 1
    assert f"Best value: {best['best_value']}" in done.stderr
    assert f"method.layer={best['best_params']['method.layer']}" in done.stderr


def test_what_optuna_cannot_be_given_is_said_in_one_sentence(tmp_path: Path) -> None:
    without = optuna(tmp_path)
    assert without.returncode == 1
    assert "hydra/sweeper=optuna decides by what a run measured: say obj" in without.stderr
    shards = optuna(tmp_path, "objective=reliability", "shards=2")
    assert shards.returncode == 1
    assert "an objective is that of a whole run" in shards.stderr
    dry = optuna(tmp_path, "objective=reliability", "dry_run=true")
    assert dry.returncode == 0, dry.stderr
    assert "2 runs: 2 to do" in dry.stderr
    assert "none are made here" in dry.stderr
    for done in (without, shards, dry):
        assert "Traceback" not in done.stderr
        assert done.stderr.count("error: ") == done.returncode
    assert not list(tmp_path.rglob("summary.json"))


SUMMARY = {
    "run_id": "0123456789ab",
    "metrics": {
        "success": {"value": 0.75},
        "drop": {"value": 2.5},
        "empty": {"value": None},
    },
}


def test_an_objective_is_a_metric_its_negative_or_several() -> None:
    assert objective(SUMMARY, "success") == 0.75
    assert objective(SUMMARY, "-drop") == -2.5
    assert objective(SUMMARY, ("success", "-drop")) == [0.75, -2.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sucess", r"no such metric \(did you mean success\?\); choose from success, drop, empty"),
        ("-empty", "nothing to judge it by"),
    ],
)
def test_an_objective_that_was_not_measured_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective(SUMMARY, name)


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return composed(*QUICK, f"results_dir={tmp_path}", "sweep=s") | {
        "objective": "success",
        "dry_run": False,
        "wait": False,
    }


def test_every_launcher_waits_for_what_a_sweeper_asks(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[LaunchConfig] = []

    def launched(runs: Any, launcher: Any, options: LaunchConfig) -> list[Ended]:
        given.append(options)
        for name in ("done", "lacks"):
            (tmp_path / name).mkdir(exist_ok=True)
        metrics = {"done": SUMMARY["metrics"], "lacks": {}}
        for name, found in metrics.items():
            summary = {"run_id": name, "metrics": found}
            (tmp_path / name / "summary.json").write_text(json.dumps(summary))
        places = [tmp_path / name for name in ("done", "failed", "elsewhere", "lacks")]
        return [Ended(one, "broke" if one.name == "failed" else None) for one in places]

    monkeypatch.setattr(launching, "launch", launched)
    done, *others = launch_composed([("a", config)], "slurm", {}, "optuna")
    assert done == 0.75
    assert all(isinstance(one, ToldError) for one in others)
    assert "run elsewhere is not finished" in str(others[1])
    launch_composed([("a", config)], "slurm", {})
    assert [one.wait for one in given] == [True, False]


def test_a_sweep_returns_what_became_of_every_run(
    tmp_path: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {**config, "objective": None}
    broken = {**plain, "dataset": {**plain["dataset"], "relations": ["P998"]}}
    runs = [("a", plain), ("b", broken), ("c", plain)]
    for _ in range(2):  # the second time the first is done
        first, failed, same = launch_composed(runs, "local", {})
        assert first == same == str(next(tmp_path.glob("s/*/summary.json")).parent)
        assert isinstance(failed, ToldError)
    assert cli.launch_composed([("a", {**plain, "dry_run": True})], "local", {}) == []
