"""A run writes nothing but its directory, and waits for no dashboard, whatever becomes of that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import kn_sweeps.evaluation.steps as steps_module
from kn_sweeps.dashboards import following
from kn_sweeps.records.run_directory import RunDirectory
from kn_sweeps.run import run
from tests import forked
from tests.dashboards.runs import assert_complete
from tests.servers.wandb import WandbServer
from tests.test_config import composed

ROOT = Path(__file__).parents[2]
QUICK = ("dataset=pararel", "dataset.relations=[P36]", "limit=2", "method=none")

PATIENT = ("tracker.mode=online", "tracker.linger_s=90")
"""What is sent last is to arrive on slow machines too."""


def launched(
    server: WandbServer, results: Path, *overrides: str
) -> tuple[subprocess.CompletedProcess[str], float]:
    """The command of users; gives also how long it took."""
    home = results.parent / "home"
    home.mkdir(exist_ok=True)
    own = {name: value for name, value in os.environ.items() if name != "KN_SWEEPS_DATA"}
    began = time.monotonic()
    done = forked.run(
        [sys.executable, str(ROOT / "launch.py"), *QUICK, f"results_dir={results}", *overrides],
        cwd=results.parent,
        env=own | server.environment(str(home)) | {"PYTHONPATH": str(ROOT)},
    )
    return done, time.monotonic() - began


def rows(results: Path) -> pd.DataFrame:
    (path,) = results.glob("default/*/rows.parquet")
    return pd.read_parquet(path)


def test_a_run_leaves_what_it_leaves_without_a_tracker(tmp_path: Path) -> None:
    files = {}
    for tracker in ("none", "wandb"):
        results = tmp_path / tracker
        run(composed(*QUICK, f"tracker={tracker}", f"results_dir={results}"))
        files[tracker] = {str(path.relative_to(results)) for path in results.rglob("*")}
    assert files["wandb"] == files["none"]
    assert not following._beside, "nothing is started unless mode=online"


def test_online_runs_are_there_when_the_command_ends(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    done, _ = launched(wandb_server, tmp_path / "results", *PATIENT)
    assert done.returncode == 0, done.stderr
    assert "W&B" not in done.stderr
    assert_complete(wandb_server, tmp_path / "results" / "default")


def test_a_server_that_does_not_answer_costs_some_seconds_a_warning_and_no_row(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    done, without = launched(wandb_server, tmp_path / "none", "tracker=none")
    assert done.returncode == 0
    for number, fault in enumerate(("hang", 401)):
        wandb_server.fails("", fault)
        results = tmp_path / str(number)
        done, took = launched(wandb_server, results, "tracker.mode=online")
        wandb_server.heals()
        assert done.returncode == 0
        assert done.stderr.count("W&B") == 1, done.stderr
        assert "sends it later" in done.stderr
        assert took < without + following.LINGER_S + 20
        pd.testing.assert_frame_equal(rows(results), rows(tmp_path / "none"), check_exact=True)
    assert not wandb_server.runs


def test_a_run_that_fails_is_shown_as_failed(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    for name, value in wandb_server.environment(str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(steps_module, "scored", fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(composed(*QUICK, f"results_dir={tmp_path / 'results'}", *PATIENT))
    following.end()
    assert_complete(wandb_server, tmp_path / "results" / "default")
    (shown,) = wandb_server.runs.values()
    assert (shown.state, shown.summary["error"]) == ("failed", "RuntimeError: broken")


def test_a_finished_run_goes_where_it_is_asked_to_now(tmp_path: Path) -> None:
    place = f"results_dir={tmp_path}"
    run(composed(*QUICK, place, "tracker=none"))
    outcome = run(composed(*QUICK, place, "tracker.project=elsewhere"))
    assert not outcome.computed
    assert RunDirectory(outcome.directory).config()["tracker"]["project"] == "elsewhere"
    run(composed(*QUICK, place, "tracker=none"))
    assert RunDirectory(outcome.directory).config()["tracker"]["project"] == "elsewhere"


def test_following_costs_a_run_next_to_nothing(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wandb_server.environment(str(tmp_path)).items():
        monkeypatch.setenv(name, value)
    (tmp_path / "sweep").mkdir()
    following.follow(tmp_path / "sweep" / "first", "W&B", 60)  # starts the process
    began = time.monotonic()
    for number in range(100):
        following.follow(tmp_path / "sweep" / str(number), "W&B")
    assert time.monotonic() - began < 100 * 0.05
    following.end()
