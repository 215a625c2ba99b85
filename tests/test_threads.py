"""A process takes the cores it was given, few for a small model, and what a user says wins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kn_sweeps.threads import SMALL, cores, for_model, wait_passively

MANY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("environ", "files", "found"),
    [
        ({}, {}, MANY),
        ({"SLURM_CPUS_PER_TASK": "1"}, {}, 1),
        ({"SLURM_CPUS_PER_TASK": "512"}, {}, MANY),
        ({"KN_SWEEPS_CORES": "1", "SLURM_CPUS_PER_TASK": "2"}, {}, 1),
        ({}, {"cpu.max": "max 100000\n"}, MANY),
        ({}, {"cpu.max": "50000 100000\n"}, 1),
        ({}, {"slurm/job_1/cpu.max": "100000 100000\n", "own": "0::/slurm/job_1/step_0\n"}, 1),
        ({}, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, MANY),
        ({}, {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_cores_are_those_that_were_given(
    tmp_path: Path, environ: dict[str, str], files: dict[str, str], found: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores(environ, tmp_path, tmp_path / "own") == found


def test_a_small_model_has_one_thread_and_the_users_number_stays() -> None:
    assert for_model(SMALL, {}) == 1
    assert for_model(SMALL + 1, {}) == cores({})
    assert for_model(SMALL + 1, {"OMP_NUM_THREADS": "7"}) is None


def test_threads_wait_without_spinning_unless_the_user_says_how() -> None:
    environ: dict[str, str] = {}
    wait_passively(environ)
    assert environ == {"OMP_WAIT_POLICY": "PASSIVE"}
    own = {"GOMP_SPINCOUNT": "100"}
    wait_passively(own)
    assert own == {"GOMP_SPINCOUNT": "100"}


def test_a_run_says_what_was_chosen(tmp_path: Path) -> None:
    environ = {n: v for n, v in os.environ.items() if not n.startswith(("OMP", "GOMP", "MKL"))}
    command = (
        *(sys.executable, "launch.py", "method=none", "limit=1", "tracker=none"),
        *("dataset=pararel", "dataset.relations=[P36]", f"results_dir={tmp_path}"),
    )
    root = Path(__file__).parents[1]
    subprocess.run(command, cwd=root, env=environ, check=True, capture_output=True)
    (file,) = tmp_path.glob("default/*/provenance.json")
    text = file.read_text()
    assert '"threads": 1' in text
    assert '"wait_policy": "PASSIVE"' in text
