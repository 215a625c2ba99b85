"""Run directories on a local page: one run an id however often, complete, seen in a browser."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from kn_sweeps.commands import dashboard
from kn_sweeps.dashboards.publisher import Publisher
from kn_sweeps.records.files import held
from tests import forked
from tests.dashboards.runs import estimate, finish, progress, write_run

if find_spec("trackio") is None:  # not imported here: it reads its folder when it is
    pytest.skip("Trackio is not installed", allow_module_level=True)

ROOT = Path(__file__).parents[2]
LATE = "tracker.linger_s=90"
"""What is sent last is to arrive on slow machines too."""
TRACKIO = {"_target_": "kn_sweeps.dashboards.tracker.Trackio", "project": "kn", "sample_rows": 2}
ELSEWHERE = {
    **{"TRACKIO_BUCKET_ID": "some/bucket", "TRACKIO_SPACE_ID": "some/space"},
    **{"TRACKIO_STORAGE_MODE": "jsonl", "GRADIO_SHARE": "true"},
}
"""What would send runs elsewhere, or into a form that is for elsewhere."""
LISTENING = """
import os, socket
def note(way):
    def noted(*told, **more):
        address = next(one for one in told if not isinstance(one, socket.socket))
        host = address[0] if isinstance(address, tuple) else address
        if host not in (None, "127.0.0.1", "localhost", b"127.0.0.1"):
            with open(os.environ["ASKED"], "a") as file:
                file.write(f"{address}\\n")
        return way(*told, **more)
    return noted
socket.getaddrinfo = note(socket.getaddrinfo)
socket.socket.connect = note(socket.socket.connect)
"""
"""Has every Python process tell whom it asks, but for this machine."""


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Path]:
    """A sweep whose runs are shown; nobody but this machine may be asked meanwhile."""
    (tmp_path / "sitecustomize.py").write_text(LISTENING, encoding="utf-8")
    (tmp_path / "asked").touch()
    yield tmp_path / "results" / "oaks"
    assert not (tmp_path / "asked").read_text(encoding="utf-8")


def _environment(sweep: Path) -> dict[str, str]:
    top = sweep.parent.parent
    own = {"TRACKIO_DIR": str(top / "store"), "ASKED": str(top / "asked")}
    return {**os.environ, **ELSEWHERE, **own, "PYTHONPATH": f"{top}:{ROOT}"}


def _command(sweep: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kn_sweeps", "dashboard", str(sweep), *arguments],
        env=_environment(sweep),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _once(sweep: Path, *arguments: str) -> tuple[int, str, str]:
    process = _command(sweep, "--once", *arguments)
    out, errors = process.communicate(timeout=120)
    return process.returncode, out, errors


def _stored(sweep: Path, project: str = "kn") -> dict[str, list[dict[str, Any]]]:
    """By run id, what its history has, with name, time and config of the run in each step."""
    with closing(sqlite3.connect(sweep.parent.parent / "store" / f"{project}.db")) as store:
        store.row_factory = sqlite3.Row
        configs = {
            row["run_id"]: json.loads(row["config"])
            for row in store.execute("select * from configs")
        }
        found: dict[str, list[dict[str, Any]]] = {}
        for row in store.execute("select * from metrics order by step"):
            told = {key: row[key] for key in ("run_name", "step", "timestamp")}
            told["config"] = configs[row["run_id"]]
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
    assert last["run_name"] == "toy pararel rome layer=1"
    assert last["reliability"] == 0.5
    assert last["estimates"]["_value"][0] == {
        **{"metric": "reliability", "value": 0.5, "low": 0.5, "high": 0.5, "n": 4}
    }
    assert len(last["examples"]["_value"]) == 2
    assert last["config"]["_Group"] == "oaks"
    assert last["timestamp"] == "1970-01-01T00:16:44+00:00"
    assert [line["step"] for line in stored["lost"]] == [0, 2]
    states = [stored[name][0]["config"]["state"] for name in ("one", "lost")]
    assert states == ["finished", "failed"]
    # It goes on, has another metric, and a run beside it from which it is to be told.
    finish(sweep / "one", locality=estimate(1.0))
    progress(sweep / "lost", 4)
    write_run(sweep, "three", tracker=TRACKIO, layer=1, words="/a/b")
    assert _once(sweep) == (0, "3 runs sent, 1 were there already\n", "")
    stored = _stored(sweep)
    assert stored["one"][-1]["locality"] == 1
    assert [line["step"] for line in stored["lost"]] == [0, 2, 4]
    assert stored["three"][-1]["run_name"] == "toy pararel rome layer=1 words=/a/b"


def test_a_store_that_was_deleted_is_filled_again(sweep: Path) -> None:
    write_run(sweep, "one", tracker=TRACKIO)
    assert _once(sweep)[1] == "1 runs sent, 0 were there already\n"
    shutil.rmtree(sweep.parent.parent / "store")
    assert _once(sweep)[1] == "1 runs sent, 0 were there already\n"
    assert set(_stored(sweep)) == {"one"}
    pictures = list((sweep.parent.parent / "store" / "media").rglob("*.png"))
    finish(sweep / "one", locality=estimate(1.0))
    assert _once(sweep)[1] == "1 runs sent, 0 were there already\n"
    assert not any(path.exists() for path in pictures), "superseded"


def test_one_that_is_killed_while_it_writes_and_several_at_once_leave_each_run_once(
    sweep: Path,
) -> None:
    for n in range(6):
        write_run(sweep, f"run{n}", tracker=TRACKIO, layer=n)
    store = sweep.parent.parent / "store"
    store.mkdir()
    with held(store / "kn.publishing"):
        killed = _command(sweep, "--once")
        _until(lambda: bool(list(store.glob("media/kn/*/*/*.png"))))
        killed.kill()
        killed.communicate()
        # Its workers are still at it, with what they have read before.
        finish(sweep / "run0", locality=estimate(1.0))
        both = [_command(sweep, "--once") for _ in range(2)]
        _until(lambda: all(one.poll() is None for one in both))
    assert [one.communicate(timeout=120)[1] for one in both] == ["", ""]
    stored = _stored(sweep)
    assert set(stored) == {f"run{n}" for n in range(6)}
    for lines in stored.values():
        assert [line["step"] for line in lines] == [0, 2, 4, 5]
    assert stored["run0"][-1]["locality"] == 1


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_runs_of_a_config_that_names_it_are_there_when_the_command_ends(sweep: Path) -> None:
    quick = ("dataset=pararel", "dataset.relations=[P36]", "limit=2", "method=none")
    launched = forked.run(
        [sys.executable, str(ROOT / "launch.py"), *quick, "tracker=trackio", "sweep=oaks", LATE],
        cwd=sweep.parent.parent,
        env=_environment(sweep),
    )
    assert (launched.returncode, "Trackio" in launched.stderr) == (0, False), launched.stderr
    (lines,) = _stored(sweep, "kn_sweeps").values()
    assert lines[-1]["reliability"] == 0
    assert lines[-1]["config"]["_Group"] == "oaks"


def test_sweeps_that_begin_later_are_shown_unless_some_are_named(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in _environment(sweep).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(sweep.parent.parent)
    with Publisher(60.0) as publisher:
        with pytest.raises(ValueError, match="there are no runs in results"):
            dashboard.Shown([], publisher)
        write_run(sweep, "one", tracker=TRACKIO)
        everything, named = (dashboard.Shown(names, publisher) for names in ([], ["oaks"]))
        write_run(sweep.parent / "elms", "two", tracker=TRACKIO)
        assert named.look(quiet=True)
        assert everything.look(quiet=True)
        assert everything.project() == "kn"
    assert capsys.readouterr().out.splitlines() == [
        "1 runs sent, 0 were there already",
        "1 runs sent, 1 were there already",
    ]
    assert os.environ["TRACKIO_PLOT_ORDER"] == "reliability,symmetry"


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
        assert "project=oaks" in address
        port = address.split("/")[2].split(":")[1]
        taken = _command(sweep, "--no-browser", "--port", port).communicate(timeout=60)
        assert taken[1] == (
            f"error: port {port} is not free on 127.0.0.1; choose another: --port NUMBER\n"
        )
        page = browser.new_page()
        page.set_default_timeout(30_000)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        for text in ("toy pararel rome layer=1", "toy pararel rome layer=2", "reliability"):
            page.get_by_text(text).first.wait_for()
        page.get_by_text("Media & Tables").first.click()
        for text in ("headline", "estimates", "examples"):
            page.get_by_text(text, exact=True).first.wait_for()
        here = (address.split("?")[0], "data:", "blob:")
        away = [url for url in asked if not url.startswith(here)]
        assert not away
        page.close()
    finally:
        process.terminate()
        process.communicate()
