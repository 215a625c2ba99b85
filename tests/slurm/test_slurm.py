"""Sweeps on a real Slurm: what goes wrong there goes wrong here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from kn_sweeps.sweeps.record import launches
from kn_sweeps.sweeps.states import RunState, states
from tests import forked
from tests.slurm.conftest import Cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Sweep:
    """One sweep on the cluster."""

    folder: Path
    cluster: Cluster
    name: str = "s"

    @property
    def path(self) -> Path:
        return self.folder / "results" / self.name

    def command(self, *overrides: str, launcher: str = "slurm") -> list[str]:
        slurm = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1"]
        return [
            *(sys.executable, str(ROOT / "launch.py"), "-m", "tracker=none", "metric=[locality]"),
            *("method=none", "method._target_=tests.slurm.scripted.Scripted"),
            *(f"+method.folder={self.folder}", "dataset=pararel", "dataset.relations=[P36]"),
            *("limit=2", f"results_dir={self.folder}/results", f"sweep='{self.name}'"),
            *(slurm if launcher == "slurm" else []),
            *overrides,
        ]

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in self.cluster.environment().items() if k != "KN_SWEEPS_DATA"}
        return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def launch(self, *overrides: str, launcher: str = "slurm") -> subprocess.CompletedProcess[str]:
        return self._run(self.command(*overrides, launcher=launcher))

    def status(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run([sys.executable, "-m", "kn_sweeps.commands.status", *arguments])

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return forked.run(command, cwd=ROOT, env=self.environment(), timeout=500)

    def states(self) -> dict[str, RunState]:
        """By the value of `method.how` and the seed."""
        found = states(self.path, launches(self.path))
        return {
            f"{one.run.config['method']['how']}-{one.run.config['seed']}": one
            for one in found.values()
        }

    def counts(self) -> dict[str, int]:
        return dict(Counter(one.state for one in self.states().values()))

    def until(self, condition: Callable[[], bool], seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.counts(), self.cluster.queue(), self.logs())
            time.sleep(0.3)

    def until_over(self) -> None:
        self.until(lambda: not self.cluster.queue())

    def logs(self) -> str:
        files = sorted((self.path / "launches").glob("*/*.err"))
        return "\n".join(f"== {path}\n{path.read_text()}" for path in files)

    def steps(self) -> list[str]:
        path = self.folder / "steps"
        return path.read_text().splitlines() if path.exists() else []

    def exit_codes(self) -> dict[str, str]:
        """By task as Slurm calls it, its exit code, as long as Slurm remembers."""
        done = subprocess.run(
            ["scontrol", "show", "job", "--oneliner"],
            capture_output=True,
            text=True,
            check=True,
            env=self.cluster.environment(),
        )
        found = {}
        for line in done.stdout.splitlines():
            facts = dict(re.findall(r"(\w+)=(\S*)", line))
            job = facts.get("ArrayJobId", facts["JobId"])
            found[f"{job}_{facts.get('ArrayTaskId', 0)}"] = facts["ExitCode"]
        return found


@pytest.fixture
def sweep(
    cluster: Cluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Sweep:
    monkeypatch.setenv("SLURM_CONF", str(cluster.conf))
    name = re.sub(r"\W", "-", request.node.name.removeprefix("test_"))[:40]
    return Sweep(tmp_path, cluster, name)


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


def _nothing_saved_was_done_again(sweep: Sweep) -> None:
    """A step that was being scored when the signal came is done again, and no other."""
    found = [json.loads(path.read_text()) for path in sweep.path.glob("*/provenance.json")]
    steps = sum(len(one["steps"]) for one in found)
    restarts = sum("stopped:" in line for line in sweep.logs().splitlines())
    assert steps <= len(sweep.steps()) <= steps + restarts
    assert len(set(sweep.steps())) == steps


SLOW = ("+method.how=slow", "limit=6", "dataset.relations=[P36,P101,P1376,P103,P19,P20]")
"""A run of 36 cases in four steps of three seconds."""


def _under_way(sweep: Sweep, name: str) -> bool:
    one = sweep.states().get(name)
    return one is not None and one.status.get("done", 0) > 0


def test_scancel_of_one_array_task_keeps_what_it_has(sweep: Sweep) -> None:
    assert sweep.launch(*SLOW, "seed=0,1", "runs_per_task=1").returncode == 0
    sweep.until(lambda: _under_way(sweep, "slow-0") and _under_way(sweep, "slow-1"))
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
    sweep.until(lambda: _under_way(sweep, "slow-1") and sweep.counts().get("done") == 1)
    job = sweep.states()["slow-1"].job
    assert job is not None
    told = time.monotonic()
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    sweep.until(lambda: sweep.states()["slow-1"].status["state"] == "preempted", 8)
    assert time.monotonic() - told < 6
    assert sweep.states()["slow-1"].state in ("waiting", "preempted")
    sweep.until(lambda: sweep.counts() == {"done": 2}, 400)
    assert "requeued as" in sweep.logs()
    _nothing_saved_was_done_again(sweep)


def test_out_of_time_is_told_apart_and_goes_on(sweep: Sweep) -> None:
    limits = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=75")
    more = "dataset.relations=[P36,P101,P1376,P103,P19,P20,P27,P30,P37,P106,P176]"
    assert sweep.launch(*SLOW, "limit=12", more, *limits).returncode == 0
    sweep.until(lambda: "requeued as" in sweep.logs(), 200)
    assert "stopped: timed out" in sweep.logs()
    sweep.until(lambda: sweep.counts() == {"done": 1}, 500)
    _nothing_saved_was_done_again(sweep)


def test_slurmd_stopped_and_started_during_a_run(sweep: Sweep) -> None:
    assert sweep.launch(*SLOW).returncode == 0
    sweep.until(lambda: _under_way(sweep, "slow-0"))
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


def test_two_launches_at_once_compute_every_run_once(sweep: Sweep) -> None:
    command = sweep.command("+method.how=quick", "seed=0,1,2", "runs_per_task=1", "wait=true")
    both = [
        subprocess.Popen(
            command, cwd=ROOT, env=sweep.environment(), text=True, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("3 to do" in one for one in said) == 1, said
    sweep.until_over()
    assert sweep.counts() == {"done": 3}
    assert len(sweep.steps()) == 2 * 3


def test_what_waits_is_not_changed_by_an_edit_of_the_configs(sweep: Sweep) -> None:
    conf = sweep.folder / "conf"
    shutil.copytree(ROOT / "conf", conf)
    hold = "+hydra.launcher.additional_parameters.hold=true"
    command = sweep.command("+method.how=quick", "seed=0", hold)
    done = subprocess.run(
        [*command[:2], "--config-path", str(conf), *command[2:]],
        cwd=ROOT,
        env=sweep.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (job,) = launches(sweep.path)[0].jobs()
    for path in conf.rglob("*.yaml"):
        path.write_text("broken: [")
    subprocess.run(["scontrol", "release", job], check=True)
    sweep.until_over()
    assert sweep.counts() == {"done": 1}


def test_optuna_waits_for_the_result_of_every_trial(sweep: Sweep) -> None:
    done = sweep.launch(
        *("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "objective=locality"),
        *("hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1"),
        *("+method.how=quick", "seed=range(0,100)"),
    )
    assert done.returncode == 0, done.stderr
    assert sweep.counts() == {"done": 2}
    assert "Best value: 1.0" in done.stderr
    assert (sweep.path / "optimization_results.yaml").is_file()


def test_cancel_stops_what_waits_and_what_runs(sweep: Sweep) -> None:
    # Long enough that none ends by itself before it is told, on a busy machine either.
    assert sweep.launch(*SLOW, "limit=30", "seed=0,1,2", "runs_per_task=1").returncode == 0
    sweep.until(lambda: _under_way(sweep, "slow-0"))
    done = sweep.status("cancel", str(sweep.path))
    assert done.stdout.strip() == "told to stop: 3", done.stderr
    sweep.until_over()
    assert set(sweep.counts()) <= {"cancelled", "lost"}
    shown = sweep.status("logs", str(sweep.path), sweep.states()["slow-0"].run.id)
    assert "run.log" in shown.stdout
    assert "TaskFailedError: cancelled" in shown.stdout


def test_what_others_call_their_jobs_and_a_blank_before_a_sweeps_name_change_nothing(
    sweep: Sweep,
) -> None:
    for name in ("a|b", "a|b|c|d|e", " s.20261126-000000-abcdef.0 "):
        done = subprocess.run(
            ["sbatch", "--hold", f"--job-name={name}", "--wrap=true", "--output=/dev/null"],
            env=sweep.cluster.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    sweep.name = " s |x"
    held = ("+hydra.launcher.additional_parameters.hold=true", "+method.how=quick", "seed=0,1")
    try:
        assert sweep.launch(*held, "runs_per_task=1").returncode == 0
        again = sweep.launch(*held, "runs_per_task=1")
        assert "2 waiting" in again.stderr
        assert len(launches(sweep.path)) == 1
        shown = sweep.status(str(sweep.path)).stdout
        assert shown.count("JobHeldUser") == 2, shown
        assert sweep.status("cancel", str(sweep.path)).stdout.strip() == "told to stop: 2"
        sweep.until(lambda: len(sweep.cluster.queue()) == 3)
    finally:
        subprocess.run(["scancel", "--user", "root"], check=True, env=sweep.cluster.environment())
        sweep.until_over()


def test_a_limit_shorter_than_a_step_ends_the_requeues_with_a_sentence(sweep: Sweep) -> None:
    limits = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=45")
    assert sweep.launch("+method.how=endless", *limits).returncode == 0
    sweep.until(lambda: "not put back into the queue" in sweep.logs(), 400)
    sweep.until_over()
    assert sweep.logs().count("requeued as") == 1
    (one,) = sweep.states().values()
    assert one.state == "timed out"
    assert "raise hydra.launcher.timeout_min" in sweep.status(str(sweep.path)).stdout.replace(
        "\n", " "
    )


def test_what_cannot_begin_on_a_node_has_failed_and_says_why(sweep: Sweep) -> None:
    data = sweep.folder / "data" / "pararel"
    _written(data, "Ruritania")
    module = sweep.folder / "own_methods.py"
    module.write_text("from tests.slurm.scripted import Scripted as Own\n")
    environment = sweep.environment()
    environment["PYTHONPATH"] += f":{sweep.folder}"
    held = (
        *("+hydra.launcher.additional_parameters.hold=true", "runs_per_task=1"),
        *("+method.how=quick", f"dataset.root={data}"),
    )

    def launch(*more: str) -> str:
        done = subprocess.run(
            sweep.command(*held, *more),
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return launches(sweep.path)[-1].jobs()[0]

    broken = launch("method._target_=own_methods.Own", "seed=1")
    module.write_text("def (\n")
    other = launch("seed=2")
    _written(data, "Freedonia")
    for job in (broken, other):
        subprocess.run(["scontrol", "release", job], check=True, env=sweep.cluster.environment())
    sweep.until_over()
    found = sweep.states()
    assert {name: one.state for name, one in found.items()} == {
        "quick-1": "failed",
        "quick-2": "failed",
    }
    assert "own_methods" in str(found["quick-1"].status)
    assert "the data or the weights are not those" in found["quick-2"].status["error"]
    # Launched again it is the run of the new data; the other one is not waited for any more.
    again = launch("seed=2")
    subprocess.run(["scontrol", "release", again], check=True, env=sweep.cluster.environment())
    sweep.until_over()
    assert {name: one.state for name, one in sweep.states().items()} == {
        "quick-1": "failed",
        "quick-2": "done",
    }


def _written(folder: Path, country: str) -> None:
    """A relation of ParaRel with some facts of our own."""
    facts = [{"sub_label": s, "obj_label": o} for s, o in ((country, "Paris"), ("Italy", "Rome"))]
    for part, rows in (("patterns", [{"pattern": "The capital of [X] is [Y]."}]), ("facts", facts)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / part / "P36.jsonl").write_text(text)


def test_a_copy_of_the_project_runs_its_own_code_on_the_nodes(sweep: Sweep) -> None:
    copy = sweep.folder / "copy"
    for name in ("kn_sweeps", "hydra_plugins", "conf", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "launch.py", copy)
    rows = copy / "kn_sweeps" / "row.py"
    text = rows.read_text()
    rows.write_text(re.sub(r"^SCHEMA_VERSION = .*$", "SCHEMA_VERSION = 1000", text, flags=re.M))
    command = sweep.command("+method.how=quick")
    command[1] = str(copy / "launch.py")
    environment = {k: v for k, v in sweep.environment().items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    sweep.until_over()
    (summary,) = sweep.path.glob("*/summary.json")
    assert json.loads(summary.read_text())["schema_version"] == 1000
