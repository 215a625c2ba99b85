"""What status says: by launches' ids, not by clocks; each run once; and what others may see."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.commands import status
from kn_sweeps.evaluation import regimes
from kn_sweeps.methods.none import NoEdit
from kn_sweeps.progress import saving
from kn_sweeps.records import files
from kn_sweeps.records import status as progress
from kn_sweeps.records.chunks import Chunks
from kn_sweeps.records.status import launch_id
from kn_sweeps.run import run
from kn_sweeps.sweeps import slurm, submit, task
from kn_sweeps.sweeps.launch import SweepFailedError, again, launch, sweep_of
from kn_sweeps.sweeps.plan import LaunchConfig
from kn_sweeps.sweeps.record import Launch, launches, place_of
from kn_sweeps.sweeps.states import states
from kn_sweeps.sweeps.submit import Local, Slurm, code_path
from tests import forked
from tests.sweeps.test_plan import SEEDS, _launched, planned
from tests.test_config import composed

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    *("tracker=none", "attribution_cache_gib=0", "metric=[reliability]", "method=none"),
    *("dataset=pararel", "dataset.relations=[P36]", "limit=2"),
)


@pytest.fixture
def configs(tmp_path: Path) -> Callable[..., list[tuple[str, Any]]]:
    def make(*sets: str) -> list[tuple[str, Any]]:
        place = (f"results_dir={tmp_path}", "sweep=s")
        return [(one, composed(*QUICK, *place, *one.split())) for one in sets]

    return make


def _states(sweep: Path) -> dict[str, str]:
    return {one.run.name: one.state for one in states(sweep, launches(sweep)).values()}


def _every_time(folder: Path, seconds: float) -> None:
    """Let every file be as old, as `cp` or a clock that is ahead make it."""
    for path in folder.rglob("*"):
        os.utime(path, (seconds, seconds))


def test_ids_sort_though_clocks_do_not(tmp_path: Path) -> None:
    before = ""
    for _ in range(5):
        now = launch_id(tmp_path)
        assert now > before
        before = now
        (tmp_path / "launches" / now).mkdir(parents=True)
    (tmp_path / "launches" / "29990101-000000-abcdef").mkdir()
    (tmp_path / "launches" / "not-an-id").mkdir()
    assert launch_id(tmp_path) > "29990101-000000-abcdef"
    assert launch_id(tmp_path, "29990101-235959-abcdef") > "29990101-235959-abcdef"


@pytest.mark.parametrize("seconds", [1e9, 4e9])
def test_no_file_time_changes_a_state(
    tmp_path: Path, configs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    launch(configs("seed=0"), Local(), LaunchConfig())

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("as told")

    with monkeypatch.context() as patch:
        patch.setattr(NoEdit, "plan", fail)
        with pytest.raises(SweepFailedError):
            launch(configs("seed=1"), Local(), LaunchConfig())
        with pytest.raises(SweepFailedError):
            launch(configs("seed=0 rerun=true"), Local(), LaunchConfig())
    assert _states(tmp_path / "s") == {"seed=0 rerun=true": "failed", "seed=1": "failed"}
    launch(configs("seed=0 rerun=true"), Local(), LaunchConfig())
    expected = {"seed=0 rerun=true": "done", "seed=1": "failed"}
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "s", copy)
    for sweep in (tmp_path / "s", copy):
        _every_time(sweep, seconds)
        assert _states(sweep) == expected


def test_a_rerun_is_done_by_its_launch_and_goes_on_in_it(
    configs: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regimes, "CHUNK", 1)
    ((_, config),) = configs("seed=0 rerun=true")
    first = run(config, launch="20260101-000000-aaaaaa")
    assert first.computed
    assert not run(config, launch="20260101-000000-aaaaaa").computed
    original = Chunks.add
    added: list[int] = []

    def stopping(self: Any, chunk: int, *args: Any, **about: Any) -> None:
        original(self, chunk, *args, **about)
        added.append(chunk)
        if len(added) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Chunks, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(config, launch="20260102-000000-aaaaaa")
    assert run(config, launch="20260102-000000-aaaaaa").computed
    assert added == [0, 1]
    assert run(config, launch="20260103-000000-aaaaaa").computed
    assert added == [0, 1, 0, 1]


def test_a_run_is_examined_once_however_often_it_was_launched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "s"
    runs = planned(sweep, *SEEDS).runs
    for _ in range(5):
        _launched(sweep, [runs])
    read: list[Path] = []
    locked: list[Path] = []
    monkeypatch.setattr("kn_sweeps.sweeps.states.read_status", lambda path: read.append(path) or {})
    monkeypatch.setattr(files.fcntl, "flock", lambda file, _: locked.append(Path(file.name)))
    found = states(sweep, launches(sweep))
    assert len(read) == len(found) == len(runs)
    assert len(locked) == 0


def test_what_an_interrupted_sweep_never_began_waits_and_is_launched_again(
    tmp_path: Path,
    configs: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(NoEdit, "plan", stop)
        with pytest.raises(KeyboardInterrupt):
            launch(configs("seed=0", "seed=1", "seed=2"), Local(), LaunchConfig())
    assert _states(tmp_path / "s") == {
        "seed=0": "cancelled",
        "seed=1": "waiting",
        "seed=2": "waiting",
    }
    monkeypatch.setenv("COLUMNS", "200")
    assert status.main([str(tmp_path / "s")]) == 0
    shown = capsys.readouterr().out
    assert "0 of 3 runs done; 2 wait for a new launch" in shown
    caplog.set_level("INFO", logger="kn_sweeps")
    assert status.main(["retry", str(tmp_path / "s")]) == 0
    assert "3 to do" in caplog.text
    assert set(_states(tmp_path / "s").values()) == {"done"}


def test_what_fails_before_it_begins_has_failed_with_its_message(
    tmp_path: Path, configs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(tmp_path / "s", *SEEDS[:2]).runs
    started = _launched(tmp_path / "s", [made])
    monkeypatch.setattr("kn_sweeps.run.build", lambda *_: exec("def ("))
    with pytest.raises(task.TaskFailedError):
        task.NodeTask(str(started.folder), 0)()
    found = states(tmp_path / "s", launches(tmp_path / "s")).values()
    assert {one.state for one in found} == {"failed"}
    assert all("SyntaxError" in one.status["error"] for one in found)

    gone = Launch.new(tmp_path / "s", "local", {}, {}, [made])
    gone = Launch(**{**vars(gone), "cwd": str(tmp_path / "gone")})
    gone.folder.mkdir(parents=True)
    gone.write()
    with pytest.raises(task.TaskFailedError, match="2 of 2 runs failed"):
        task.NodeTask(str(gone.folder), 0)()
    found = states(tmp_path / "s", launches(tmp_path / "s")).values()
    assert all("gone" in one.status["error"] for one in found)


def test_retry_works_where_the_folder_it_was_launched_from_is_gone_and_the_sweep_was_moved(
    tmp_path: Path, configs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "from").mkdir()
    monkeypatch.chdir(tmp_path / "from")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("as told")

    with monkeypatch.context() as patch:
        patch.setattr(NoEdit, "plan", fail)
        with pytest.raises(SweepFailedError):
            launch(configs("seed=0"), Local(), LaunchConfig())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "from").rmdir()
    (tmp_path / "s").rename(tmp_path / "moved")
    again(list(states(tmp_path / "moved", launches(tmp_path / "moved")).values()))
    assert _states(tmp_path / "moved") == {"seed=0": "done"}
    assert not (tmp_path / "s").exists()


def test_data_that_changed_in_the_meantime_is_said_and_the_new_run_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"

    def write(country: str) -> None:
        for part, rows in (
            ("patterns", [{"pattern": "The capital of [X] is [Y]."}]),
            ("facts", [{"sub_label": country, "obj_label": "Paris"}]),
        ):
            (data / part).mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (data / part / "P36.jsonl").write_text(text)

    write("France")
    place = (f"results_dir={tmp_path}", "sweep=s", f"dataset.root={data}")
    made = planned(tmp_path / "s", (*QUICK, *place)).runs
    started = _launched(tmp_path / "s", [made])
    write("Italy")
    with pytest.raises(task.TaskFailedError, match="the data or the weights are not those of when"):
        task.NodeTask(str(started.folder), 0)()
    (one,) = states(tmp_path / "s", launches(tmp_path / "s")).values()
    assert (one.run.id, one.state) == (made[0].id, "failed")
    now = planned(tmp_path / "s", (*QUICK, *place)).runs
    assert now[0].id != made[0].id
    _launched(tmp_path / "s", [now])
    (one,) = states(tmp_path / "s", launches(tmp_path / "s")).values()
    assert one.run.id == now[0].id


QUEUE = """51|3|PENDING|JobHeldUser|a| b.20261126-010203-abcdef.1
52|N/A|RUNNING|None|x|y
half of a name
53|0|RUNNING|None| 20261126-010203-abcdef.0
"""


def test_the_queue_is_read_whatever_jobs_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(slurm, "_ask", lambda *command: asked.append(command) or QUEUE)
    held_one, other, third = slurm.queue([7, 3])
    assert (held_one.name, held_one.job, held_one.reason) == (
        *("a| b.20261126-010203-abcdef.1", "51_3", "JobHeldUser"),
    )
    assert not held_one.running
    assert (other.name, other.job, other.reason) == ("x|y", "52", "")
    assert asked[0][asked[0].index("--user") + 1] == "3,7"
    assert place_of(held_one.name) == ("20261126-010203-abcdef", 1)
    assert place_of(other.name) is place_of("") is place_of("a.b.c") is None
    assert third.name.startswith(" ")


def test_a_sweep_outside_its_results_folder_is_refused_and_nothing_is_written(
    tmp_path: Path, configs: Callable[..., Any]
) -> None:
    for name in ("../escape", "/abs", "", "a/../../b"):
        made = [("", {**config, "sweep": name}) for _, config in configs("seed=0")]
        with pytest.raises(ValueError, match="the name of a folder in results_dir"):
            launch(made, Local(), LaunchConfig())
    assert not list(tmp_path.iterdir())
    made = [("", {**config, "sweep": " a b|c"}) for _, config in configs("seed=0")]
    assert sweep_of(made) == tmp_path / " a b|c"


def test_results_that_others_may_write_are_refused_unless_told(
    tmp_path: Path, configs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    launch(configs("seed=0"), Local(), LaunchConfig())
    (tmp_path / "s").chmod(0o777)
    with pytest.raises(ValueError, match="may be written to by everyone: whoever may do that can"):
        launch(configs("seed=1"), Local(), LaunchConfig())
    assert len(launches(tmp_path / "s")) == 1
    launch(configs("seed=1"), Local(), LaunchConfig(trust_writers=True))
    (tmp_path / "s").chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    if os.geteuid() != 0:
        with pytest.raises(ValueError, match="whose it is"):
            launch(configs("seed=2"), Local(), LaunchConfig())


def test_a_limit_that_lets_nothing_finish_is_said_after_the_first_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = planned(tmp_path / "s", SEEDS[0]).runs
    slurms = {"timeout_min": 1, "signal_delay_s": 10, "requeue": 5}
    made = Launch.new(tmp_path / "s", "slurm", slurms, {}, [runs])
    requeued: list[str] = []
    monkeypatch.setattr(task, "_requeue", lambda: requeued.append("again"))
    progress.failed(tmp_path / "s" / runs[0].id, made.id, RuntimeError("x"))
    progress.noted(tmp_path / "s" / runs[0].id, state="timed out", error="")
    monkeypatch.setattr(saving, "_kept", 0)
    task._after("timed out", runs, made)
    assert len(requeued) == 1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    task._after("preempted", runs, made)
    assert len(requeued) == 2
    task._after("timed out", runs, made)
    assert len(requeued) == 2
    told = progress.read_status(tmp_path / "s" / runs[0].id)
    assert "raise hydra.launcher.timeout_min" in told["error"]
    saving.kept()
    task._after("timed out", runs, made)
    assert len(requeued) == 3


def test_nodes_take_the_code_of_the_project_that_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/somewhere/of mine", *sys.path])
    found = code_path()
    assert found["PYTHONPATH"].split(os.pathsep)[:2] == [str(ROOT), "/somewhere/of mine"]
    assert found["PYTHONSAFEPATH"] == "1"
    assert not [one for one in found["PYTHONPATH"].split(os.pathsep) if "site-packages" in one]
    setup = Slurm().parameters()["slurm_setup"]
    assert any(line.startswith("export PYTHONPATH='") for line in setup)


def test_what_is_installed_nodes_find_by_their_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "CHECKOUT", None)
    packages = f"{sys.prefix}/lib/python3/site-packages"
    monkeypatch.setattr(sys, "path", [f"{sys.prefix}/bin", "/somewhere/of mine", packages])
    assert code_path() == {"PYTHONPATH": "/somewhere/of mine", "PYTHONSAFEPATH": "1"}


@pytest.mark.slow
def test_cancel_reaches_the_tasks_of_a_launcher_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *QUICK, "method=rome", "limit=null"]
    command += [f"results_dir={tmp_path}", "sweep=s", "hydra/launcher=processes", "runs_per_task=2"]
    command += ["seed=0,1"]
    environment = {k: v for k, v in os.environ.items() if k != "KN_SWEEPS_DATA"}
    process = forked.Popen(command, cwd=tmp_path, env=environment)
    sweep, deadline = tmp_path / "s", time.monotonic() + 150
    while not list(sweep.glob("*/parts/*.parquet")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sorted(_states(sweep).values()) == ["running", "waiting"]
    (one,) = (one for one in states(sweep, launches(sweep)).values() if one.state == "waiting")
    assert not one.idle  # its task lives
    assert status.cancel(sweep) == 1
    while set(_states(sweep).values()) != {"cancelled", "waiting"}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (one,) = (one for one in states(sweep, launches(sweep)).values() if one.state == "waiting")
    deadline = time.monotonic() + 30
    while not states(sweep, launches(sweep))[one.run.id].idle:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status.cancel(sweep) == 0
