"""After one `sync` against a healthy server all is there, once, whatever happened before."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from PIL import Image

from kn_sweeps.dashboards import candidates, following
from kn_sweeps.dashboards.place import Place
from kn_sweeps.dashboards.publisher import Publisher
from kn_sweeps.dashboards.worker import Worker
from kn_sweeps.records.files import held
from tests.dashboards.runs import (
    WANDB,
    Syncing,
    assert_complete,
    assert_run,
    estimate,
    finish,
    progress,
    sync,
    tell,
    write_run,
)
from tests.servers.protocol import Fault
from tests.servers.wandb import WandbServer

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return tmp_path / "results" / "oaks"


def test_runs_arrive_as_their_directories_are_and_only_once(
    wandb_server: WandbServer, sweep: Path
) -> None:
    write_run(sweep, "finished")
    write_run(sweep, "other", layer=2)
    failed = write_run(sweep, "failed", state="failed", done=(0, 2))
    tell(failed, "failed", error="RuntimeError: no")
    write_run(sweep, "killed", state="running", done=(0,))
    write_run(sweep, "untracked", tracker={"_target_": "kn_sweeps.dashboards.tracker.NoTracker"})
    running = write_run(sweep, "running", state="running", done=(0, 2))
    with held(running / ".lock"):
        assert sync(wandb_server, sweep) == (0, "6 runs sent, 0 were there already\n", "")
        there = wandb_server.runs["running"]
        assert (there.state, there.summary["cases_done"]) == ("running", 2)
        before = len(wandb_server.requests)
        assert sync(wandb_server, sweep) == (0, "0 runs sent, 6 were there already\n", "")
        assert len(wandb_server.requests) == before, "another sync sends nothing"
    assert sync(wandb_server, sweep) == (0, "1 runs sent, 5 were there already\n", "")
    assert_complete(wandb_server, sweep)
    runs = wandb_server.runs
    assert runs["finished"].name == "toy pararel rome layer=1"
    assert runs["other"].name == "toy pararel rome layer=2"
    assert (runs["finished"].project, runs["finished"].tags) == ("kn", ["a tag"])
    assert (runs["untracked"].project, runs["untracked"].tags) == ("kn_sweeps", [])
    assert (runs["failed"].summary["state"], runs["killed"].summary["state"]) == ("failed", "lost")
    assert runs["failed"].summary["error"] == "RuntimeError: no"
    examples = json.loads(runs["finished"].files[runs["finished"].summary["examples"]["path"]])
    assert (len(examples["data"]), "not_shown" in examples["columns"]) == (2, False)
    for key in ("headline", "located_by_layer"):
        drawn = runs["finished"].files[runs["finished"].summary[key]["path"]]
        with Image.open(io.BytesIO(drawn)) as image:
            assert len(image.convert("L").getcolors() or []) > 2, "something is drawn"


def test_what_changes_later_follows_under_the_same_id(
    wandb_server: WandbServer, sweep: Path
) -> None:
    directory = write_run(sweep, "one", state="failed", done=(0, 2))
    tell(directory, "failed", error="RuntimeError: no")
    assert sync(wandb_server, sweep)[0] == 0
    # It goes on, finishes, gets another metric, and one that cannot be measured any more.
    progress(directory, 4)
    write_run(sweep.parent / "spare", "one")
    shutil.copy(sweep.parent / "spare" / "one" / "rows.parquet", directory)
    finish(directory, locality=estimate(1.0))
    assert sync(wandb_server, sweep)[0] == 0
    assert_complete(wandb_server, sweep)
    assert "error" not in wandb_server.runs["one"].summary
    finish(directory, flip_rate=estimate(0.25), locality=estimate(None, 0))
    assert sync(wandb_server, sweep)[0] == 0
    assert_complete(wandb_server, sweep)
    results = [(h["_step"], h.get("flip_rate")) for h in wandb_server.runs["one"].history]
    assert results[-2:] == [(5, None), (6, 0.25)]


REFUSED: tuple[tuple[Fault, str], ...] = (
    *((401, "no entry"), (403, "no entry"), (429, "no entry"), (500, "no entry")),
    *(("drop", "EOF"), ("hang", "")),
)
FAULTS: tuple[tuple[str, Fault, str], ...] = (
    *(("UpsertBucket", *fault) for fault in REFUSED),
    *(("file_stream", *fault) for fault in REFUSED[1::2]),
    *(("RunResumeStatus", 403, "no entry"), ("CreateRunFiles", "hang", "")),
    *(("PUT /store/runs", 500, ""), ("PUT /store/artifacts", 403, "no entry")),
    *(("CommitArtifact", 500, "no entry"), ("graphql Run$", 500, "not there")),
)
"""What is asked, how that fails, and what is told: the client drops what some answers said."""


@pytest.mark.slow
def test_whatever_fails_is_told_in_the_servers_words_and_the_next_time_heals_it(
    wandb_server: WandbServer, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_run(sweep, "one")
    for name, value in wandb_server.environment(str(sweep)).items():
        monkeypatch.setenv(name, value)
    about = (directory, "toy pararel rome", (), asdict(Place("kn", tags=("a tag",))))
    with closing(Worker(2.0)) as impatient, closing(Worker(60.0)) as patient:
        for where, fault, said in FAULTS:
            # Something new to send, where what was sent is not sent again.
            finish(directory, tau=estimate(time.monotonic()))
            wandb_server.fails(where, fault, text="no entry")
            began = time.monotonic()
            answer = impatient.ask(*about)
            assert time.monotonic() - began < 20, (where, fault)
            assert "error" in answer, (where, fault)
            assert said in answer["error"], (where, fault, answer)
            assert "\n" not in answer["error"]
            wandb_server.heals()
            assert "address" in patient.ask(*about), (where, fault)
            assert_complete(wandb_server, sweep)


def test_an_outage_ends_with_1_and_the_next_sync_heals_it(
    wandb_server: WandbServer, sweep: Path
) -> None:
    write_run(sweep, "one")
    wandb_server.fails("file_stream", 500, text="on holiday")
    code, out, errors = sync(wandb_server, sweep, "--patience=6")
    assert (code, out) == (1, "0 runs sent, 0 were there already, 1 did not arrive\n")
    (line,) = errors.splitlines()
    assert line.startswith("one [toy pararel rome]: ")
    assert "on holiday" in line
    wandb_server.heals()
    assert sync(wandb_server, sweep) == (0, "1 runs sent, 0 were there already\n", "")
    assert_complete(wandb_server, sweep)


@pytest.mark.slow
def test_a_sync_that_is_killed_leaves_nothing_that_another_does_not_put_right(
    wandb_server: WandbServer, sweep: Path
) -> None:
    for name in ("one", "two", "three"):
        write_run(sweep, name)
    for request in (1, 12, 40, 70):
        wandb_server.fails("", "hang", after=request)
        started = Syncing(wandb_server, sweep)
        already = len(wandb_server.requests)
        until = time.monotonic() + 30
        while len(wandb_server.requests) <= already + request and time.monotonic() < until:
            if started.process.poll() is not None:
                break
            time.sleep(0.02)
        started.kill()
        wandb_server.heals()
    assert sync(wandb_server, sweep)[0] == 0
    assert_complete(wandb_server, sweep)


def test_two_at_the_same_time_send_every_run_once(wandb_server: WandbServer, sweep: Path) -> None:
    for number in range(6):
        write_run(sweep, f"run{number}")
    both = [Syncing(wandb_server, sweep) for _ in range(2)]
    said = [one.ends() for one in both]
    assert [code for code, _, _ in said] == [0, 0]
    assert sum(int(out.split()[0]) for _, out, _ in said) == 6
    assert wandb_server.asked("RunResumeStatus") == 6
    assert_complete(wandb_server, sweep)
    left = [path.name for path in both[0].home.glob("kn-sweeps-*")]
    assert not left, "nothing is left on disk"


def test_what_cannot_be_read_is_told_and_the_others_arrive(
    wandb_server: WandbServer, sweep: Path
) -> None:
    write_run(sweep, "whole")
    (write_run(sweep, "torn") / "summary.json").write_text("{")
    (write_run(sweep, "odd") / "config.yaml").write_text("- 1")
    write_run(sweep, "private", tracker={**WANDB, "mode": "disabled"})
    code, out, errors = sync(wandb_server, sweep)
    assert (code, out) == (1, "1 runs sent, 0 were there already, 1 did not arrive\n")
    assert "torn [toy pararel rome]: " in errors
    assert "odd: " in errors
    assert len(errors.splitlines()) == 2
    assert list(wandb_server.runs) == ["whole"]


def test_a_server_that_is_not_there_does_not_cost_its_time_for_every_run(
    wandb_server: WandbServer, sweep: Path
) -> None:
    wandb_server.stop()
    for number in range(40):
        write_run(sweep, f"run{number:02}")
    began = time.monotonic()
    code, out, errors = sync(wandb_server, sweep, "--patience=6")
    assert (code, out) == (1, "0 runs sent, 0 were there already, 40 did not arrive\n")
    assert len(errors.splitlines()) == 40
    assert "not tried, as others failed: " in errors
    assert errors.count("connection refused") == 40
    assert time.monotonic() - began < 100


def test_watching_follows_a_run_to_its_end_through_an_outage(
    wandb_server: WandbServer, sweep: Path
) -> None:
    directory = write_run(sweep, "one", state="running", done=(0,))
    with held(directory / ".lock"):
        watching = Syncing(wandb_server, sweep, "--watch=0.3", "--patience=6")
        _until(lambda: "one" in wandb_server.runs and len(wandb_server.runs["one"].history) == 1)
        wandb_server.fails("", 500, text="on holiday")
        progress(directory, 2)
        time.sleep(3)
        wandb_server.heals()
        _until(lambda: len(wandb_server.runs["one"].history) == 2)
        assert wandb_server.runs["one"].state == "running"
        progress(directory, 4)
        write_run(sweep.parent / "spare", "one")
        shutil.copy(sweep.parent / "spare" / "one" / "rows.parquet", directory)
        finish(directory)
    code, _, errors = watching.ends()
    assert code == 0, errors
    assert errors.count("on holiday") <= 2, "said once, not at every look"
    assert_complete(wandb_server, sweep)
    assert_run(wandb_server.runs["one"], directory)


def _until(true: object) -> None:
    until = time.monotonic() + 90
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk without room, which is freed by removing `ballast`."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> None:
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))


def test_a_full_disk_ends_with_1_and_the_next_sync_heals_it(
    wandb_server: WandbServer, full: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"  # with room for what a client stages
    sweep = full / "results" / "oaks"
    write_run(sweep, "one")
    kept = {path.name: path.read_bytes() for path in (sweep / "one").iterdir()}
    _fill(full)
    code, out, errors = sync(wandb_server, sweep, home=home)
    assert (code, out) == (1, "0 runs sent, 0 were there already, 1 did not arrive\n"), errors
    (line,) = errors.splitlines()
    assert line.startswith("one [toy pararel rome]: ")
    assert "No space left on device" in line
    (full / "ballast").unlink()
    code, _, errors = sync(wandb_server, sweep, home=home)
    assert code == 0, errors
    assert_complete(wandb_server, sweep)
    assert kept == {name: (sweep / "one" / name).read_bytes() for name in kept}


def test_a_run_that_is_silent_for_long_is_said_to_be_alive(
    wandb_server: WandbServer, sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wandb_server.environment(str(sweep)).items():
        monkeypatch.setenv(name, value)
    directory = write_run(sweep, "one", state="running", done=(0,))
    start, started = Worker._started, []
    monkeypatch.setattr(Worker, "_started", lambda worker: started.append(worker) or start(worker))
    with held(directory / ".lock"), Publisher(60.0) as publisher:
        watching = following.Following(candidates.Sweep(sweep), publisher, pytest.fail)
        for silence, sent in ((1e9, True), (1e9, False), (0.0, True)):
            monkeypatch.setattr(following, "_HEARTBEAT_S", silence)
            before = wandb_server.asked("file_stream")
            assert watching.look()
            assert (wandb_server.asked("file_stream") > before) == sent
    assert wandb_server.runs["one"].state == "running"
    assert len(started) == 1, "one process for all looks"


def test_there_must_be_runs(wandb_server: WandbServer, sweep: Path) -> None:
    os.makedirs(sweep)
    code, _, errors = sync(wandb_server, sweep)
    assert code == 1
    assert "there are no runs in" in errors
