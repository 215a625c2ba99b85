"""Run directories as runs leave them, and `sync` as people call it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from kn_sweeps.dashboards.reading import EXAMPLE_COLUMNS, PARTS
from kn_sweeps.records.history import read_history
from kn_sweeps.records.integrity import read_sealed
from tests import forked
from tests.servers.wandb import Run, WandbServer

WANDB = {
    **{"_target_": "kn_sweeps.dashboards.tracker.WandB", "mode": "offline", "project": "kn"},
    **{"entity": None, "tags": ["a tag"], "sample_rows": 2},
}


def config_of(sweep: Path, tracker: Mapping[str, Any] = WANDB, **method: Any) -> dict[str, Any]:
    return {
        "model": {"label": "toy"},
        "dataset": {"_target_": "kn_sweeps.data.pararel.Pararel", "relations": ["P1"]},
        "method": {"_target_": "kn_sweeps.methods.rome.Rome", "layer": 1, **method},
        **{"seed": 0, "sweep": sweep.name, "tracker": dict(tracker)},
    }


def estimate(value: float | None = 0.5, n: int = 4) -> dict[str, Any]:
    return {"value": value, "low": value, "high": value, "n": n}


def finish(directory: Path, **metrics: Any) -> None:
    """The summary of a finished run."""
    found = {"reliability": estimate(), "symmetry": estimate(None, 0), **metrics}
    summary = {
        **{"run_id": directory.name, "model": "toy", "method": "rome", "cases": 4, "of": None},
        **{"neurons_by_layer": [1, 0, 2], "metrics": found},
    }
    (directory / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    tell(directory, "done")


def tell(directory: Path, state: str, **more: Any) -> None:
    """What a run says of itself."""
    status = {"state": state, "where": {"job": None}, **more}
    (directory / "status.json").write_text(json.dumps(status), encoding="utf-8")


def progress(directory: Path, *done: int) -> None:
    """More lines of a run's history."""
    with (directory / "progress.jsonl").open("a", encoding="utf-8") as file:
        for number in done:
            file.write(json.dumps({"done": number, "total": 4, "at": 1000.0 + number}) + "\n")


def write_run(
    sweep: Path, run_id: str, state: str = "done", done: Sequence[int] = (0, 2, 4), **more: Any
) -> Path:
    """A run directory."""
    directory = sweep / run_id
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config_of(sweep, **more)))
    progress(directory, *done)
    if state != "done":
        tell(directory, state)
        return directory
    rows = {name: [f"{name} {n}" for n in range(4)] for name in EXAMPLE_COLUMNS}
    pq.write_table(pa.table({**rows, "not_shown": [0.0] * 4}), directory / "rows.parquet")
    finish(directory)
    return directory


class Syncing:
    """`kn-sweeps sync` in a process of its own, against a server."""

    def __init__(
        self, server: WandbServer, sweep: Path, *arguments: str, home: Path | None = None
    ) -> None:
        home = home or sweep.parent / "home"
        home.mkdir(exist_ok=True)
        environment = {**os.environ, **server.environment(str(home)), "TMPDIR": str(home)}
        self.home = home
        said = tempfile.mkdtemp(dir=home)
        self._said = (f"{said}/out", f"{said}/errors")
        command = [sys.executable, "-m", "kn_sweeps.commands.sync", str(sweep), *arguments]
        self.process = forked.Popen(command, Path.cwd(), environment, self._said)

    def ends(self) -> tuple[int, str, str]:
        """Its exit code, and what it said."""
        code = self.process.wait(timeout=120)
        out, errors = (Path(one).read_text(encoding="utf-8") for one in self._said)
        return code, out, errors

    def kill(self) -> None:
        """End it and its workers as hard as it gets."""
        listed = ["pgrep", "-P", str(self.process.pid)]
        children = subprocess.run(listed, capture_output=True, text=True, check=False)
        for process in (self.process.pid, *map(int, children.stdout.split())):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()


def sync(
    server: WandbServer, sweep: Path, *arguments: str, home: Path | None = None
) -> tuple[int, str, str]:
    return Syncing(server, sweep, *arguments, home=home).ends()


def assert_complete(server: WandbServer, sweep: Path) -> None:
    """The server has every run of a sweep as its directory is, and nothing else."""
    directories = {path.parent.name: path.parent for path in sweep.glob("*/config.yaml")}
    assert set(server.runs) == set(directories)
    for run_id, directory in directories.items():
        assert_run(server.runs[run_id], directory)
    assert not server.unknown


def assert_run(run: Run, directory: Path) -> None:
    status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    done = (directory / "summary.json").is_file()
    assert run.state == ("finished" if done else "failed"), status
    assert (run.group, run.job_type) == (directory.parent.name, "run")
    config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    assert run.plain_config == _plain(config)
    steps = [line["_step"] for line in run.history]
    assert steps == sorted(set(steps)), "every step once"
    logged = [
        (h["_step"], h["cases_done"], h["_timestamp"]) for h in run.history if "cases_done" in h
    ]
    assert logged == [(one.done, one.done, one.at) for one in read_history(directory)]
    if done:
        assert_summary(run, read_sealed(directory / "summary.json"))


def assert_summary(run: Run, summary: dict[str, Any]) -> None:
    """What the server has is what summary.json says, under the names of a flat summary."""
    metrics = summary.pop("metrics")
    wanted = dict(summary)
    for name, one in metrics.items():
        wanted |= {name: one["value"], **{f"{name}_{part}": one[part] for part in PARTS[1:]}}
    ours = {"cases_done", "cases_total", "metrics", "examples", "headline", "located_by_layer"}
    there = {k: v for k, v in run.summary.items() if k not in ours and not k.startswith("_")}
    assert there == {name: value for name, value in wanted.items() if value is not None}
    table = json.loads(run.files[run.summary["metrics"]["path"]])
    assert table["columns"] == ["metric", *PARTS]
    assert {name: parts for name, *parts in table["data"]} == {
        name: [one[part] for part in PARTS] for name, one in metrics.items()
    }
    (results,) = [line for line in run.history if "metrics" in line][-1:]
    assert results.get("reliability") == metrics["reliability"]["value"]


def _plain(config: Any) -> Any:
    """A config without empty mappings, which the client leaves out."""
    if not isinstance(config, dict):
        return config
    return {key: _plain(value) for key, value in config.items() if value != {}}
