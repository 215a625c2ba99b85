"""Launching on a real Slurm: several at once, what is changed meanwhile, what cannot begin."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kn_sweeps.sweeps.record import launches
from tests import forked
from tests.slurm.sweeps import ROOT, SLOW, Sweep, under_way

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]


def test_two_launches_at_once_compute_every_run_once(sweep: Sweep) -> None:
    command = sweep.command("+method.how=quick", "seed=0,1,2", "runs_per_task=1", "wait=true")
    files = [sweep.folder / f"said{n}" for n in range(2)]
    both = [
        forked.Popen(command, ROOT, sweep.environment(), (os.devnull, str(file))) for file in files
    ]
    codes = [process.wait(300) for process in both]
    said = [file.read_text() for file in files]
    assert codes == [0, 0], said
    assert sum("3 to do" in one for one in said) == 1, said
    sweep.until_over()
    assert sweep.counts() == {"done": 3}
    assert len(sweep.steps()) == 2 * 3


def test_what_waits_is_not_changed_by_an_edit_of_the_configs(sweep: Sweep) -> None:
    conf = sweep.folder / "conf"
    shutil.copytree(ROOT / "conf", conf)
    hold = "+hydra.launcher.additional_parameters.hold=true"
    command = sweep.command("+method.how=quick", "seed=0", hold)
    command[2:2] = ["--config-path", str(conf)]
    done = forked.run(command, ROOT, sweep.environment())
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
    sweep.until(lambda: under_way(sweep, "slow-0"))
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
        done = forked.run(sweep.command(*held, *more), ROOT, environment)
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
