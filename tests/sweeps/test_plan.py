"""What a launch would do: what is left, how it is packed, cut into arrays and refused."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kn_sweeps.records.status import STATUS
from kn_sweeps.sweeps.plan import LaunchConfig, LaunchPlan, arrays, packed, plan
from kn_sweeps.sweeps.record import Launch, PlannedRun, launches
from kn_sweeps.sweeps.states import outlook, states
from tests.models.folders import configure, folder
from tests.test_config import composed


def planned(
    sweep: Path, *sets: tuple[str, ...], options: LaunchConfig | None = None, **how: Any
) -> LaunchPlan:
    place = (f"results_dir={sweep.parent}", f"sweep={sweep.name}", "tracker=none")
    configs = [(" ".join(one), composed(*place, *one)) for one in sets]
    how = {"at_once": None, "max_array": None} | how
    return plan(configs, options or LaunchConfig(), sweep, **how)


SEEDS = [("method=none", f"seed={n}") for n in range(6)]


def _finished(sweep: Path, run: PlannedRun, **facts: Any) -> None:
    folder = sweep / run.id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"metric_configs": {}} | facts))


def _status(sweep: Path, run: PlannedRun, **facts: Any) -> None:
    folder = sweep / run.id
    folder.mkdir(parents=True, exist_ok=True)
    launch = launches(sweep)[-1].id
    (folder / STATUS).write_text(json.dumps({"launch": launch} | facts))


def _launched(sweep: Path, tasks: list[list[PlannedRun]], **facts: Any) -> Launch:
    made = Launch.new(sweep, "local", {}, {}, tasks)
    made.folder.mkdir(parents=True)
    made.write()
    return made


def test_done_runs_and_repetitions_are_skipped(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    runs = planned(sweep, *SEEDS).runs
    assert len(runs) == 6
    _finished(sweep, runs[2])
    again = planned(sweep, *SEEDS, SEEDS[0])
    assert [run.id for run in again.runs] == [runs[n].id for n in (0, 1, 3, 4, 5)]
    assert [(one.run.id, one.why) for one in again.skipped] == [
        (runs[2].id, "done"),
        (runs[0].id, "the same as another"),
    ]
    assert next(again.lines(whole=False)) == (
        "sweep s: 7 runs: 5 to do, 1 done, 1 the same as another, "
        "1 to get new metrics or another tracker"
    )


def test_rerun_does_what_is_done(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    (run,) = planned(sweep, SEEDS[0]).runs
    _finished(sweep, run)
    assert len(planned(sweep, (*SEEDS[0], "rerun=true")).runs) == 1


def test_a_live_launch_keeps_its_runs_and_a_dead_one_does_not(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    runs = planned(sweep, *SEEDS).runs
    first = _launched(sweep, [runs[:2], runs[2:4]])
    with first.at_work():
        assert first.at_work_in() == (os.getpid(), socket.gethostname())
        now = planned(sweep, *SEEDS)
        assert [run.id for run in now.runs] == [run.id for run in runs[4:]]
        assert {one.why for one in now.skipped} == {f"waiting ({first.id})"}
    assert first.at_work_in() is None
    assert len(planned(sweep, *SEEDS).runs) == 6


def test_after_a_hard_death_the_tasks_unfinished_runs_go_alone(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    runs = planned(sweep, *SEEDS).runs
    _launched(sweep, [runs[:3], runs[3:]])
    _finished(sweep, runs[0])
    _status(sweep, runs[1], state="running", where={"job": None})
    _status(sweep, runs[3], state="failed", error="ValueError: no")
    now = planned(sweep, *SEEDS)
    assert [[run.id for run in task] for task in now.tasks] == [
        [runs[4].id, runs[5].id, runs[3].id],
        [runs[1].id],
        [runs[2].id],
    ]
    found = states(sweep, launches(sweep))
    assert [found[run.id].state for run in runs] == [
        *("done", "lost", "waiting", "failed", "waiting", "waiting"),
    ]
    assert [found[run.id].idle for run in runs] == [False, False, True, False, True, True]


def test_every_wrong_config_is_named_and_nothing_is_planned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 of 3 runs cannot be; none was launched") as error:
        planned(tmp_path / "s", ("limit=0",), SEEDS[0], ("dataset.paradigms=[]", "batch_size=0"))
    assert "limit=0: limit must be at least 1" in str(error.value)
    assert "batch_size must be at least 1" in str(error.value)


def test_shards_make_runs_that_are_joined_later(tmp_path: Path) -> None:
    options = LaunchConfig(shards=3)
    made = planned(tmp_path / "s", SEEDS[0], options=options)
    assert [run.config["shard"] for run in made.runs] == ["0/3", "1/3", "2/3"]
    assert len({run.id for run in made.runs}) == 3
    with pytest.raises(ValueError, match="leave shard=1/2 out"):
        planned(tmp_path / "s", ("shard=1/2",), options=options)
    with pytest.raises(ValueError, match="regime=sequential"):
        planned(tmp_path / "s", ("regime=sequential",), options=options)


def test_tasks_have_one_model_and_all_can_start_at_once(tmp_path: Path) -> None:
    sets = [(*one, f"model={name}") for one in SEEDS for name in ("tiny_gpt2", "tiny_bert")]
    made = planned(tmp_path / "s", *sets, at_once=4, max_array=1001)
    assert [len(task) for task in made.tasks] == [3, 3, 3, 3]
    assert all(len({run.config["model"]["label"] for run in task}) == 1 for task in made.tasks)
    by_data = planned(tmp_path / "s", *sets, options=LaunchConfig(pack_by=("seed",)))
    assert [len(task) for task in by_data.tasks] == [2] * 6
    with pytest.raises(ValueError, match="pack_by names modl; choose from model"):
        planned(tmp_path / "s", *sets, options=LaunchConfig(pack_by=("modl",)))


@given(st.integers(1, 30), st.integers(1, 9))
def test_packs_are_about_equal_and_lose_nothing(count: int, size: int) -> None:
    runs = [PlannedRun(str(n), "", {"model": "m"}) for n in range(count)]
    tasks = packed(runs, size, ["model"])
    assert [run for task in tasks for run in task] == runs
    lengths = [len(task) for task in tasks]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(tasks) == -(-count // size)


@given(st.integers(1, 9000), st.integers(1, 1001), st.integers(1, 400))
def test_arrays_cover_the_tasks_and_share_what_may_run_at_once(
    tasks: int, largest: int, at_once: int
) -> None:
    made = arrays(tasks, largest, at_once)
    assert [one.first for one in made] == list(range(0, tasks, largest))
    assert sum(one.tasks for one in made) == tasks
    assert max(one.tasks for one in made) <= largest
    assert min(one.parallel for one in made) >= 1
    # Those that wait for another take over its share.
    assert sum(one.parallel for one in made if one.after is None) <= at_once
    followed = [one.after for one in made if one.after is not None]
    assert len(followed) == len(set(followed))


def test_2500_tasks_under_slurms_usual_limit() -> None:
    made = arrays(2500, 1001, 256)
    assert [one.tasks for one in made] == [1001, 1001, 498]
    assert sum(one.parallel for one in made) == 256


def test_a_failed_run_of_this_launch_is_not_waiting(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    runs = planned(sweep, *SEEDS[:2]).runs
    first = _launched(sweep, [runs])
    _status(sweep, runs[0], state="failed")
    with first.at_work():
        found = states(sweep, launches(sweep))
    assert [found[run.id].state for run in runs] == ["failed", "waiting"]


def test_the_end_is_expected_from_what_was_measured(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    runs = planned(sweep, *SEEDS[:4]).runs
    first = _launched(sweep, [runs])
    now = time.time() + 100
    _finished(sweep, runs[0])
    _status(sweep, runs[0], state="done", began=now - 60, updated=now - 50)
    facts = {"done": 30, "total": 40, "done_before": 10}
    _status(sweep, runs[1], state="running", began=now - 10, updated=now, **facts)
    with first.at_work(), (sweep / runs[1].id / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = states(sweep, launches(sweep)).values()
        expected = outlook(found)
    # 20 cases in 10 s: 5 s are left of the one that runs, and two take 10 s each.
    assert expected.seconds_left == pytest.approx(25)
    assert (expected.runs_done, expected.runs) == (1, 4)


def test_nothing_measured_nothing_expected(tmp_path: Path) -> None:
    sweep = tmp_path / "s"
    first = _launched(sweep, [planned(sweep, *SEEDS[:2]).runs])
    with first.at_work():
        assert outlook(states(sweep, launches(sweep)).values()).seconds_left is None


@pytest.mark.parametrize(
    "named",
    [
        ("method=rome", "method.layer=99"),
        ("method=memit", "method.layers=[1,99]"),
        ("method=random", "method@method.of=ft", "method.of.layer=99"),
    ],
)
def test_layers_that_do_not_exist_are_refused_when_planning(
    tmp_path: Path, named: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"layers?=99: model tiny_gpt2 has no such layer; .* 0 to"):
        planned(tmp_path / "s", named)


@pytest.mark.parametrize("dry_run", [True, False])
def test_an_unknown_family_is_called_that_when_planning_also_dry(
    tmp_path: Path, dry_run: bool
) -> None:
    at = folder(tmp_path / "m")
    configure(at, model_type="t5")
    named = ("model=gpt2", f"model.name={at}", "method=none")
    with pytest.raises(ValueError, match="family 't5' is not known"):
        planned(tmp_path / "s", named, options=LaunchConfig(dry_run=dry_run))


def test_a_hub_that_cannot_be_asked_is_refused_unless_dry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = ("model=gpt2", "model.name=nobody/nothing", "method=none")
    with pytest.raises(ValueError, match=r"model\.name=/path/to/folder"):
        planned(tmp_path / "s", named)
    assert len(planned(tmp_path / "s", named, options=LaunchConfig(dry_run=True)).runs) == 1
    assert "ids of its runs are not final" in caplog.text
