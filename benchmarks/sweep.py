"""What a sweep costs besides its runs: packed in one process against one process a run.

python -m benchmarks.sweep --json          48 short runs of SmolLM2-135M both ways
python -m benchmarks.sweep --plan 2500     time and memory of planning that many runs
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measuring import say
from kn_sweeps.records.run_directory import RunDirectory, runs_in

ROOT = Path(__file__).resolve().parent.parent
SHORT = (
    *("dataset=blimp", "limit=2", "metric=[reliability]", "tracker=none"),
    *("dataset.source=bundled", "method=none"),
)


@dataclass(frozen=True)
class Comparison:
    """Both ways of doing the same runs.

    Attributes:
        runs: How many.
        packed_seconds: All of them in one process.
        separate_seconds: One process a run, one after the other.
        ratio: The second over the first.
        rows_equal: Whether every run has the same rows, bit for bit.
    """

    runs: int
    packed_seconds: float
    separate_seconds: float
    ratio: float
    rows_equal: bool


def compare(model: str, runs: int) -> Comparison:
    """Launch the same runs both ways, from nothing."""
    with tempfile.TemporaryDirectory() as work:
        _launch(work, "warm", model, 1)  # the model is converted and in the page cache
        packed = _launch(work, "packed", model, runs)
        say(f"packed: {packed:.1f} s for {runs} runs")
        separate = _launch(
            *(work, "separate", model, runs, "hydra/launcher=processes"),
            *("hydra.launcher.processes=1", "runs_per_task=1"),
            # As many as the packed ones have: rows are equal where threads are as many.
            f"hydra.launcher.threads={os.environ.get('OMP_NUM_THREADS', 'null')}",
        )
        say(f"one process a run: {separate:.1f} s")
        equal = _equal(Path(work) / "packed", Path(work) / "separate", runs)
    return Comparison(runs, packed, separate, separate / packed, equal)


def _launch(work: str, sweep: str, model: str, runs: int, *more: str) -> float:
    seeds = ",".join(map(str, range(runs)))
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *SHORT, f"model={model}"]
    command += [f"seed={seeds}", f"results_dir={work}", f"sweep={sweep}", *more]
    command.append("dataset.paradigms=[anaphor_number_agreement]")
    return _timed(command)[0]


def _timed(command: list[str]) -> tuple[float, str]:
    """Seconds a command takes, and what it says."""
    start = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return time.perf_counter() - start, done.stderr


def _equal(one: Path, other: Path, runs: int) -> bool:
    pairs = [(run, RunDirectory(other / run.path.name)) for run in runs_in(one)]
    return len(pairs) == runs and all(a.rows().equals(b.rows()) for a, b in pairs)


def plan(runs: int) -> dict[str, float | str]:
    """Time and memory of a dry run for Slurm, a task a run; the start of Python included."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, str(ROOT / "launch.py"), "-m", "dry_run=true", "runs_per_task=1"]
        command += ["method=kn,rome,ft,memit,none", "dataset=blimp,pararel", f"results_dir={work}"]
        command += [f"seed=range(0,{-(-runs // 10)})", "hydra/launcher=slurm"]
        took, said = _timed(command)
    first, second, *_ = said.splitlines()
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {
        "seconds": took,
        "peak_memory_MiB": largest_child / (2**20 if sys.platform == "darwin" else 2**10),
        "runs": first,
        "arrays": second,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plan", type=int, metavar="RUNS", help="plan only")
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--runs", type=int, default=48)
    chosen = parser.parse_args()
    found = plan(chosen.plan) if chosen.plan else asdict(compare(chosen.model, chosen.runs))
    print(
        json.dumps(found, indent=1)
        if chosen.json
        else "\n".join(f"{k}: {v}" for k, v in found.items())
    )


if __name__ == "__main__":
    main()
