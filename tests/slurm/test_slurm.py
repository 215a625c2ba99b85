"""Runs on a real Slurm that are interrupted: what goes wrong there goes wrong here."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections import Counter

import pandas as pd
import pytest

from kn_sweeps.sweeps.record import launches
from tests.slurm.sweeps import ROOT, SLOW, Sweep, nothing_saved_was_done_again, under_way

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]


def test_relaunched_until_done_every_run_is_computed_once_and_as_it_would_be_locally(
    sweep: Sweep,
) -> None:
    eight = ("+method.how=quick,raise,exit,kill", "seed=0,1", "runs_per_task=4")
    first = sweep.launch(*eight)
    assert first.returncode == 0, first.stderr
    assert "8 runs: 8 to do" in first.stderr
    assert "2 tasks in 1 job array" in first.stderr
    (job,) = re.findall(r"submitted: job (\d+)", first.stderr)
    sweep.until_over()
    counts = sweep.counts()
    # A run that raises or exits fails alone; what is killed takes the rest of its pack along.
    assert counts["failed"] >= 2
    assert 1 <= counts["lost"] <= 4
    assert counts["done"] >= 2
    found = sweep.states()
    failed = [one for one in found.values() if one.state == "failed"]
    assert {"RuntimeError: as told", "SystemExit: 3"} >= {one.status["error"] for one in failed}
    assert all("Traceback" in one.status["traceback"] for one in failed)
    codes = sweep.exit_codes()
    for number, task in enumerate(launches(sweep.path)[0].tasks):
        fine = all(found[_name(run.config)].state == "done" for run in task)
        assert (codes[f"{job}_{number}"] == "0:0") == fine
    died = {name for name, one in found.items() if one.state == "lost"}
    for _ in range(3):
        again = sweep.launch(*eight)
        assert again.returncode == 0, again.stderr
        if "8 done" in again.stderr:
            break
        last = launches(sweep.path)[-1]
        alone = [task for task in last.tasks if died & {_name(run.config) for run in task}]
        assert all(len(task) == 1 for task in alone)
        sweep.until_over()
        died = {name for name, one in sweep.states().items() if one.state == "lost"}
    assert sweep.counts() == {"done": 8}
    assert max(Counter(sweep.steps()).values()) == 1
    assert len(sweep.steps()) == 2 * 8  # of two cases each
    local = sweep.launch(*eight, f"results_dir={sweep.folder}/local", launcher="local")
    assert local.returncode == 0, local.stderr
    for path in sorted(sweep.path.glob("*/rows.parquet")):
        other = sweep.folder / "local" / sweep.name / path.parent.name / "rows.parquet"
        pd.testing.assert_frame_equal(
            pd.read_parquet(path), pd.read_parquet(other), check_exact=True
        )


def _name(config: object) -> str:
    return f"{config['method']['how']}-{config['seed']}"  # type: ignore[index]


def test_scancel_of_one_array_task_keeps_what_it_has(sweep: Sweep) -> None:
    assert sweep.launch(*SLOW, "seed=0,1", "runs_per_task=1").returncode == 0
    sweep.until(lambda: under_way(sweep, "slow-0") and under_way(sweep, "slow-1"))
    job = sweep.states()["slow-0"].job
    assert job is not None
    told = time.monotonic()
    subprocess.run(["scancel", job], check=True)
    sweep.until(lambda: sweep.states()["slow-0"].status["state"] == "cancelled", 8)
    assert time.monotonic() - told < 6
    sweep.until_over()
    assert {name: one.state for name, one in sweep.states().items()} == {
        "slow-0": "cancelled",
        "slow-1": "done",
    }
    before = Counter(sweep.steps())["slow 0"]
    shown = sweep.status(str(sweep.path))
    assert "cancelled" in shown.stdout, shown.stderr
    retried = sweep.status("retry", str(sweep.path))
    assert retried.returncode == 0, retried.stderr
    sweep.until_over()
    assert sweep.counts() == {"done": 2}
    assert max(Counter(sweep.steps()).values()) == 1, before
    assert "0: 1 runs" in sweep.logs() or "task 0" in sweep.logs()


def test_usr2_in_the_middle_of_a_pack_requeues_it_and_it_goes_on(sweep: Sweep) -> None:
    assert sweep.launch(*SLOW, "seed=0,1", "runs_per_task=2").returncode == 0
    # Two runs of one task: the first is done, the second has some rows.
    sweep.until(lambda: under_way(sweep, "slow-1") and sweep.counts().get("done") == 1)
    job = sweep.states()["slow-1"].job
    assert job is not None
    told = time.monotonic()
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    sweep.until(lambda: sweep.states()["slow-1"].status["state"] == "preempted", 8)
    assert time.monotonic() - told < 6
    assert sweep.states()["slow-1"].state in ("waiting", "preempted")
    sweep.until(lambda: sweep.counts() == {"done": 2}, 400)
    assert "requeued as" in sweep.logs()
    nothing_saved_was_done_again(sweep)


def test_out_of_time_is_told_apart_and_goes_on(sweep: Sweep) -> None:
    # Told to stop after 75 s, or 45: Slurm looks each half minute. Twelve steps of 7 s are more,
    # and a slow machine's 25 s for a start leave time for one of them.
    limits = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=45")
    more = "dataset.relations=[P36,P101,P1376,P103,P19,P20,P27,P30,P37,P106,P176]"
    paced = (*SLOW, "+method.seconds=7", "limit=12", more)
    assert sweep.launch(*paced, *limits).returncode == 0
    sweep.until(lambda: "requeued as" in sweep.logs(), 200)
    assert "stopped: timed out" in sweep.logs()
    sweep.until(lambda: sweep.counts() == {"done": 1}, 500)
    nothing_saved_was_done_again(sweep)


def test_slurmd_stopped_and_started_during_a_run(sweep: Sweep) -> None:
    assert sweep.launch(*SLOW).returncode == 0
    sweep.until(lambda: under_way(sweep, "slow-0"))
    sweep.cluster.stop_node()
    time.sleep(2)
    sweep.cluster.start_node()
    sweep.until_over()
    sweep.until(lambda: sweep.counts() == {"done": 1}, 30)
    assert max(Counter(sweep.steps()).values()) == 1


def test_the_launching_process_killed_right_after_submission(sweep: Sweep) -> None:
    process = subprocess.Popen(
        sweep.command("+method.how=quick", "seed=0,1", "runs_per_task=1"),
        cwd=ROOT,
        env=sweep.environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    sweep.until(lambda: bool(sweep.cluster.queue()))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    sweep.until_over()
    assert sweep.counts() == {"done": 2}
    assert len(sweep.steps()) == 2 * 2


def test_a_limit_shorter_than_a_step_ends_the_requeues_with_a_sentence(sweep: Sweep) -> None:
    # Slurm's own warning comes when it likes, on a busy machine before Python listens; with these
    # limits any warning is one of the time limit.
    limits = ("hydra.launcher.timeout_min=3", "hydra.launcher.signal_delay_s=110")
    assert sweep.launch("+method.how=endless", *limits).returncode == 0
    for said in ("requeued as", "not put back into the queue"):
        sweep.until(lambda: sweep.states()["endless-0"].status.get("state") == "running")
        job = sweep.states()["endless-0"].job
        assert job is not None
        subprocess.run(["scancel", "--signal=USR2", job], check=True)
        sweep.until(lambda said=said: said in sweep.logs())  # type: ignore[misc]
    sweep.until_over()
    assert sweep.logs().count("requeued as") == 1
    (one,) = sweep.states().values()
    assert one.state == "timed out"
    assert "raise hydra.launcher.timeout_min" in sweep.status(str(sweep.path)).stdout.replace(
        "\n", " "
    )
