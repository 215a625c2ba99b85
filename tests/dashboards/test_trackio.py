"""Run directories on a local page: one run an id however often, complete, seen in a browser."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.commands import dashboard
from tests.dashboards.runs import estimate, finish, progress, write_run

pytest.importorskip("trackio")

TRACKIO = {"_target_": "kn_sweeps.dashboards.tracker.Trackio", "project": "kn", "sample_rows": 2}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "results" / "oaks"


def _command(sweep: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TRACKIO_DIR": str(sweep.parent.parent / "store")}
    return subprocess.Popen(
        [sys.executable, "-m", "kn_sweeps", "dashboard", str(sweep), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _once(sweep: Path, *arguments: str) -> tuple[int, str, str]:
    process = _command(sweep, "--once", *arguments)
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def _stored(sweep: Path, project: str = "kn") -> dict[str, list[dict[str, Any]]]:
    """By run id, what its history has, with the name and the config of the run in each step."""
    with closing(sqlite3.connect(sweep.parent.parent / "store" / f"{project}.db")) as store:
        store.row_factory = sqlite3.Row
        configs = {
            row["run_id"]: json.loads(row["config"])
            for row in store.execute("select * from configs")
        }
        found: dict[str, list[dict[str, Any]]] = {}
        for row in store.execute("select * from metrics order by step"):
            told = {"name": row["run_name"], "step": row["step"], "config": configs[row["run_id"]]}
            found.setdefault(row["run_id"], []).append({**json.loads(row["metrics"]), **told})
    return found


def test_a_run_is_there_once_as_its_directory_is(sweep: Path) -> None:
    write_run(sweep, "one", tracker=TRACKIO)
    write_run(sweep, "two", tracker=TRACKIO, layer=2)
    write_run(sweep, "lost", state="running", done=(0, 2), tracker=TRACKIO)
    write_run(sweep, "kept", tracker={**TRACKIO, "mode": "disabled"})
    assert _once(sweep) == (0, "3 runs sent, 0 were there already\n", "")
    assert _once(sweep) == (0, "0 runs sent, 3 were there already\n", "")
    stored = _stored(sweep)
    assert set(stored) == {"one", "two", "lost"}
    assert [line["step"] for line in stored["one"]] == [0, 2, 4, 5]
    last = stored["one"][-1]
    assert last["name"] == "toy pararel rome layer=1"
    assert last["reliability"] == 0.5
    assert last["estimates"]["_value"][0] == {
        **{"metric": "reliability", "value": 0.5, "low": 0.5, "high": 0.5, "n": 4}
    }
    assert len(last["examples"]["_value"]) == 2
    assert last["config"]["_Group"] == "oaks"
    assert (last["config"]["state"], stored["lost"][-1]["state"]) == ("finished", "failed")
    # It goes on, has another metric, and a run beside it from which it is to be told.
    finish(sweep / "one", locality=estimate(1.0))
    progress(sweep / "lost", 4)
    write_run(sweep, "three", tracker=TRACKIO, layer=1, steps=3)
    assert _once(sweep) == (0, "3 runs sent, 1 were there already\n", "")
    stored = _stored(sweep)
    assert stored["one"][-1]["locality"] == 1
    assert [line["step"] for line in stored["lost"]] == [0, 2, 4, 5]
    assert stored["three"][-1]["name"] == "toy pararel rome layer=1 steps=3"


def test_several_at_once_and_one_that_is_killed_leave_each_run_once(sweep: Path) -> None:
    for n in range(6):
        write_run(sweep, f"run{n}", tracker=TRACKIO, layer=n)
    killed = _command(sweep, "--once")
    with pytest.raises(subprocess.TimeoutExpired):
        killed.wait(2.5)
    killed.kill()
    killed.communicate()
    both = [_command(sweep, "--once") for _ in range(2)]
    assert [one.communicate(timeout=120)[1] for one in both] == ["", ""]
    stored = _stored(sweep)
    assert set(stored) == {f"run{n}" for n in range(6)}
    for lines in stored.values():
        assert [line["step"] for line in lines] == [0, 2, 4, 5]


def test_without_trackio_it_says_what_to_install(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(sweep, "one")
    monkeypatch.setattr(dashboard, "find_spec", lambda _: None)
    assert dashboard.main([str(sweep)]) == 1
    assert "pip install 'kn_sweeps[trackio]'" in capsys.readouterr().err


@pytest.mark.browser
def test_the_page_shows_runs_their_metrics_tables_and_figures(sweep: Path, browser: Any) -> None:
    write_run(sweep, "one", tracker=TRACKIO)
    write_run(sweep, "two", tracker=TRACKIO, layer=2)
    process = _command(sweep, "--no-browser", "--project", "oaks")
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "2 runs sent, 0 were there already\n"
        address = process.stdout.readline().split()[1]
        assert address.startswith("http://127.0.0.1:")
        page = browser.new_page()
        page.set_default_timeout(30_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}?project=oaks")
        for text in ("toy pararel rome layer=1", "toy pararel rome layer=2", "reliability"):
            page.get_by_text(text).first.wait_for()
        page.get_by_text("Media & Tables").first.click()
        for text in ("headline", "estimates", "examples"):
            page.get_by_text(text, exact=True).first.wait_for()
        away = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
        assert not away
        page.close()
    finally:
        process.terminate()
        process.communicate()
