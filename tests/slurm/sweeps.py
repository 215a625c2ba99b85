"""Sweeps on the tests' cluster: what is launched there, and what is seen of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kn_sweeps.sweeps.record import launches
from kn_sweeps.sweeps.states import RunState, states
from tests import forked
from tests.slurm.conftest import Cluster

ROOT = Path(__file__).resolve().parents[2]
SLOW = ("+method.how=slow", "limit=6", "dataset.relations=[P36,P101,P1376,P103,P19,P20]")
"""A run of 36 cases in four steps of three seconds."""


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


def under_way(sweep: Sweep, name: str) -> bool:
    one = sweep.states().get(name)
    return one is not None and one.status.get("done", 0) > 0


def nothing_saved_was_done_again(sweep: Sweep) -> None:
    """A step that was being scored when the signal came is done again, and no other."""
    found = [json.loads(path.read_text()) for path in sweep.path.glob("*/provenance.json")]
    steps = sum(len(one["steps"]) for one in found)
    restarts = sum("stopped:" in line for line in sweep.logs().splitlines())
    assert steps <= len(sweep.steps()) <= steps + restarts
    assert len(set(sweep.steps())) == steps
