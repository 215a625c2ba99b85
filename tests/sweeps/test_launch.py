"""Launches on this machine: in this process, in several, stopped, failed, and watched."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analysis.summaries import find_runs
from kn_sweeps.commands import status
from kn_sweeps.evaluation import regimes
from kn_sweeps.methods.none import NoEdit
from kn_sweeps.models.last_loaded import LastLoaded
from kn_sweeps.models.pretrained import Bundled
from kn_sweeps.progress import interruption
from kn_sweeps.progress.interruption import Interrupted
from kn_sweeps.records.status import STATUS
from kn_sweeps.run import run
from kn_sweeps.sweeps.launch import SweepFailedError, again, launch
from kn_sweeps.sweeps.plan import LaunchConfig
from kn_sweeps.sweeps.record import launches
from kn_sweeps.sweeps.states import states
from kn_sweeps.sweeps.submit import Local, Processes
from tests import forked
from tests.test_config import composed

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    *("tracker=none", "attribution_cache_gib=0", "metric=[reliability]", "method=none"),
    *("dataset=pararel", "dataset.relations=[P36]", "limit=2"),
)


@pytest.fixture
def configs(tmp_path: Path) -> Callable[..., list[tuple[str, Any]]]:
    def make(*sets: str, more: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
        place = (f"results_dir={tmp_path}", "sweep=s")
        return [(one, composed(*QUICK, *place, *more, *one.split())) for one in sets]

    return make


def _states(sweep: Path) -> dict[str, str]:
    found = states(sweep, launches(sweep)).values()
    return {one.run.name: one.state for one in found}


def test_one_load_a_model_and_a_failure_ends_its_run_only(
    tmp_path: Path, configs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    original = Bundled.load

    def load(self: Bundled, *args: Any) -> Any:
        loaded.append(self.label)
        return original(self, *args)

    plain = NoEdit.plan

    def plan(self: NoEdit, lm: Any, cases: Any, seed: int, **more: Any) -> Any:
        if seed == 1:
            raise RuntimeError("as told")
        if seed == 2:
            sys.exit(3)
        return plain(self, lm, cases, seed, **more)

    monkeypatch.setattr(Bundled, "load", load)
    names = [f"model={m} seed={n}" for n in range(4) for m in ("tiny_gpt2", "tiny_bert")]
    with monkeypatch.context() as patch:
        patch.setattr(NoEdit, "plan", plan)
        with pytest.raises(SweepFailedError, match="4 of 8 runs failed") as error:
            launch(configs(*names), Local(), LaunchConfig())
    assert "[model=tiny_gpt2 seed=1]: RuntimeError: as told" in str(error.value)
    assert "[model=tiny_bert seed=2]: the run called sys.exit(3)" in str(error.value)
    assert loaded == ["tiny_gpt2", "tiny_bert"]
    sweep = tmp_path / "s"
    failed = [one for one in states(sweep, launches(sweep)).values() if one.state == "failed"]
    assert sorted(one.run.name for one in failed) == [
        f"model={m} seed={n}" for m in ("tiny_bert", "tiny_gpt2") for n in (1, 2)
    ]
    assert all("Traceback" in one.status["traceback"] for one in failed)
    again(failed[:1])
    assert list(_states(sweep).values()).count("failed") == 3


def test_packed_or_alone_a_run_has_the_same_rows(
    tmp_path: Path, configs: Callable[..., Any]
) -> None:
    names = ["method=rome method.steps=3", "method=kn method.steps=2", "method=rome method.steps=4"]
    made = configs(*names)
    launch(made, Local(), LaunchConfig())
    for _, config in made[::-1]:
        alone = run({**config, "sweep": "alone"}).directory
        together = tmp_path / "s" / alone.name
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(path / "rows.parquet") for path in (alone, together)),
            check_exact=True,
        )


def test_a_model_that_was_left_edited_is_loaded_again() -> None:
    load = LastLoaded()
    model = Bundled(label="tiny_gpt2")
    first = load(model, torch.device("cpu"), "float32")
    assert load(model, torch.device("cpu"), "float32") is first
    first.architecture.mlp_output(0).register_forward_hook(lambda *_: None)
    assert load(model, torch.device("cpu"), "float32") is not first


@pytest.mark.slow
def test_processes_do_what_this_process_does(tmp_path: Path, configs: Callable[..., Any]) -> None:
    names = [f"seed={n}" for n in range(2)]
    launch(configs(*names), Processes(processes=2, threads=1), LaunchConfig(runs_per_task=1))
    assert set(_states(tmp_path / "s").values()) == {"done"}
    for _, config in configs(*names):
        alone = run({**config, "sweep": "alone"}).directory
        pd.testing.assert_frame_equal(
            *(pd.read_parquet(p / "rows.parquet") for p in (alone, tmp_path / "s" / alone.name)),
            check_exact=True,
        )
    assert len(launches(tmp_path / "s")[0].tasks) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_stops_at_the_next_check_and_says_why(number: int) -> None:
    with interruption.listening(lambda n: f"signal {n}"):
        interruption.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=f"signal {int(number)}"):
            interruption.check()
    interruption.check()


def test_what_is_cut_off_keeps_its_rows_and_says_so(
    tmp_path: Path, configs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regimes, "CHUNK", 1)
    plain = NoEdit.plan
    planned: list[str] = []

    def plan(self: NoEdit, lm: Any, cases: Any, seed: int, **more: Any) -> Any:
        planned.append(cases[0].id)
        if len(planned) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, lm, cases, seed, **more)

    monkeypatch.setattr(NoEdit, "plan", plan)
    made = configs("limit=4")
    with interruption.listening(), pytest.raises(Interrupted):
        launch(made, Local(), LaunchConfig())
    (state,) = states(tmp_path / "s", launches(tmp_path / "s")).values()
    assert state.state == "cancelled"
    assert (state.status["done"], state.status["total"]) == (1, 4)
    launch(made, Local(), LaunchConfig())
    # The case that was being scored is scored again, the first is not.
    assert sorted(planned[2:]) == sorted(set(planned) - {planned[0]})


def test_out_of_memory_halves_the_batch_and_goes_on(
    configs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sizes: list[int] = []
    original = regimes.evaluate

    def evaluate(lm: Any, *args: Any, **more: Any) -> Any:
        sizes.append(lm.batch_size)
        if lm.batch_size > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(lm, *args, **more)

    monkeypatch.setattr(regimes, "evaluate", evaluate)
    ((_, config),) = configs("batch_size=64")
    assert run(config).computed
    assert sizes == [64, 32, 16, 16]
    assert "going on with batch_size 16" in caplog.text


def test_shards_read_as_the_run_they_make(tmp_path: Path, configs: Callable[..., Any]) -> None:
    more = (
        "method=kn",
        "method.quadrature=riemann",
        "method.steps=2",
        "metric=[reliability,locality]",
    )
    names = ["dataset.relations=[P36,P101] limit=5"]
    launch(configs(*names, more=more), Local(), LaunchConfig(shards=3))
    (joined,) = find_runs(tmp_path / "s").summaries
    whole = run({**configs(*names, more=more)[0][1], "sweep": "whole"}).summary
    assert joined["cases"] == whole["cases"]
    assert set(joined["metrics"]) == set(whole["metrics"])
    for name, estimate in whole["metrics"].items():
        # Other edits share the batches: equal but for rounding.
        assert joined["metrics"][name] == pytest.approx(estimate, rel=1e-4, abs=1e-7), name
    assert joined["shard"] == "0/1"
    assert joined["run_id"] == whole["run_id"]
    assert joined["neurons_by_layer"] == whole["neurons_by_layer"]
    next((tmp_path / "s").glob("*/summary.json")).unlink()
    assert {one["shard"] for one in find_runs(tmp_path / "s").summaries} < {"0/3", "1/3", "2/3"}


def test_new_metrics_are_scored_when_the_sweep_is_launched_again(
    tmp_path: Path, configs: Callable[..., Any]
) -> None:
    launch(configs("seed=0"), Local(), LaunchConfig())
    launch(configs("seed=0", more=("metric=[reliability,locality]",)), Local(), LaunchConfig())
    summary = json.loads(next((tmp_path / "s").glob("*/summary.json")).read_text())
    assert {"reliability", "locality"} <= set(summary["metrics"])
    assert len(launches(tmp_path / "s")) == 1


def test_failed_runs_are_forgotten_until_they_are_launched_again(
    tmp_path: Path, configs: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made = configs("dataset.relations=[P998]", "seed=1")
    for _ in range(2):
        with pytest.raises(SweepFailedError):
            launch(made, Local(), LaunchConfig())
        failed = [name for name, state in _states(tmp_path / "s").items() if state == "failed"]
        assert failed == ["dataset.relations=[P998]"]
        assert status.main(["forget", str(tmp_path / "s")]) == 0
        assert "failed runs forgotten: 1" in capsys.readouterr().out
        assert _states(tmp_path / "s") == {"seed=1": "done"}
        assert len(list((tmp_path / "s").glob("*/config.yaml"))) == 1
    assert status.main(["forget", str(tmp_path / "s")]) == 0
    assert "forgotten: 0" in capsys.readouterr().out


def test_a_run_is_named_by_what_it_was_asked_for_in_logs(
    configs: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    launch(configs("method=none seed=1", "method=none seed=2"), Local(), LaunchConfig())
    for name in ("tiny_gpt2 pararel none seed=1", "tiny_gpt2 pararel none seed=2"):
        assert any(name in line for line in caplog.messages)


def test_another_tracker_of_a_finished_run_is_taken_up_without_computing(
    configs: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    launch(configs("seed=1"), Local(), LaunchConfig())
    launch(configs("seed=1"), Local(), LaunchConfig())
    assert "another tracker" not in caplog.text
    ((_, other),) = configs("seed=1", more=("tracker=wandb", "tracker.project=another"))
    launch([("seed=1", other)], Local(), LaunchConfig())
    assert "1 to get new metrics or another tracker" in caplog.text
    assert caplog.text.count("done: ") == 1 + caplog.text.count("already done: ")


def test_a_dry_run_does_nothing(
    tmp_path: Path, configs: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="kn_sweeps")
    launch(configs("seed=0", "seed=1"), Local(), LaunchConfig(dry_run=True))
    assert "sweep s: 2 runs: 2 to do" in caplog.text
    assert "seed=1" in caplog.text
    assert not list(tmp_path.rglob("launch.json"))
    assert not list(tmp_path.rglob(STATUS))


def test_status_shows_counts_errors_and_what_was_mistyped(
    tmp_path: Path,
    configs: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("as told")

    with monkeypatch.context() as patch:
        patch.setattr(NoEdit, "plan", fail)
        with pytest.raises(SweepFailedError):
            launch(configs("seed=0"), Local(), LaunchConfig())
    launch(configs("seed=1"), Local(), LaunchConfig())
    monkeypatch.setenv("COLUMNS", "200")
    assert status.main([str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 runs done" in shown
    assert "RuntimeError: as told" in shown
    failed = next(line for line in shown.splitlines() if "as told" in line).split()[0]
    assert status.main(["logs", str(tmp_path / "s"), failed]) == 0
    assert "Traceback" in capsys.readouterr().out
    assert status.main(["logs", str(tmp_path / "s"), "nope"]) == 1
    assert failed in capsys.readouterr().err
    assert status.main([str(tmp_path / "t")]) == 1
    assert "there are no runs in" in capsys.readouterr().err
    assert status.main(["retry", str(tmp_path / "s")]) == 0
    assert set(_states(tmp_path / "s").values()) == {"done"}
    assert status.main(["retry", str(tmp_path / "s")]) == 0
    assert "nothing to retry" in capsys.readouterr().out
    assert status.main(["cancel", str(tmp_path / "s")]) == 0
    assert "told to stop: 0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_terminated_launch_can_be_cancelled_from_outside(
    tmp_path: Path, configs: Callable[..., Any]
) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *QUICK, "method=rome", "limit=null"]
    command += [f"results_dir={tmp_path}", "sweep=s", "hydra/launcher=processes", "runs_per_task=1"]
    environment = {k: v for k, v in os.environ.items() if k != "KN_SWEEPS_DATA"}
    process = forked.Popen(command, cwd=tmp_path, env=environment)
    sweep, deadline = tmp_path / "s", time.monotonic() + 100
    while not list(sweep.glob("*/parts/*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status.main(["cancel", str(sweep)]) == 0
    assert process.wait(30) == 143
    assert set(_states(sweep).values()) == {"cancelled"}
