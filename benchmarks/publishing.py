"""How fast finished runs are published, to a W&B server of the tests on this machine.

python -m benchmarks.publishing --runs 500 --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.dashboards.runs import write_run
from tests.servers.wandb import WandbServer


@dataclass(frozen=True)
class Rate:
    """What publishing runs took.

    Attributes:
        runs: How many, each with a history, two tables and two figures.
        seconds: The first `sync`.
        per_second: Runs a second of it.
        again_seconds: Another `sync`, which has nothing to send.
        requests: What the first asked the server, a run.
    """

    runs: int
    seconds: float
    per_second: float
    again_seconds: float
    requests: float


def measure(runs: int) -> Rate:
    """Publish so many runs, and once more."""
    with tempfile.TemporaryDirectory() as work, WandbServer() as server:
        sweep = Path(work) / "results" / "many"
        for number in range(runs):
            write_run(sweep, f"run{number:05}", layer=number)
        first = _sync(sweep, server.environment(work))
        asked = len(server.requests)
        again = _sync(sweep, server.environment(work))
        if len(server.runs) != runs or len(server.requests) != asked:
            raise ValueError(f"{len(server.runs)} of {runs} runs arrived, or some twice")
        return Rate(runs, first, runs / first, again, asked / runs)


def _sync(sweep: Path, environment: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "kn_sweeps.commands.sync", str(sweep)],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - began


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the rate."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publishing", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    chosen = parser.parse_args(arguments)
    found = asdict(measure(chosen.runs))
    if chosen.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:14} {value:10.1f}")


if __name__ == "__main__":
    main()
